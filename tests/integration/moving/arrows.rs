//! Points at which a move stands still until the test lets it go on.

use std::path::{Path, PathBuf};

use super::PATIENCE;
use crate::harness::{Scratch, wait_until};

/// The folder in which points are named.
pub(crate) struct Arrows(Scratch);

impl Arrows {
    pub(crate) fn new() -> Self {
        Self(Scratch::new("arrows"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The next move that comes there stands still.
    pub(crate) fn arm(&self, arrow: &str) {
        std::fs::write(self.0.file(arrow), "").unwrap();
    }

    pub(crate) fn until_reached(&self, arrow: &str) {
        let here = self.here(arrow);
        wait_until(&format!("the move reaches '{arrow}'"), PATIENCE, || here.exists());
    }

    pub(crate) fn let_go(&self, arrow: &str) {
        std::fs::remove_file(self.here(arrow)).unwrap();
    }

    fn here(&self, arrow: &str) -> PathBuf {
        self.0.file(&format!("{arrow}.here"))
    }
}

/// Whether a move stops at arrows at all: in a release build it does not.
pub(crate) fn can_stop() -> bool {
    let debug = cfg!(debug_assertions);
    if !debug {
        println!("left out: a release build does not stop at arrows");
    }
    debug
}
