//! What a program prints, read while it runs, so that it never waits for who looks at it.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};

use super::process::{PATIENCE, wait_for};

/// Both streams of a program, as they come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(super) fn follow(&self, stream: impl Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut text = log.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The end of it, for a failure's report.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..]
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }

    pub(crate) fn line_after(&self, start: &str) -> Option<String> {
        self.text()
            .lines()
            .find_map(|line| line.strip_prefix(start).map(|rest| rest.trim().to_owned()))
    }

    /// Both streams have ended (the two follower threads have let go).
    pub(super) fn settle(&self) {
        wait_for("the log is read to its end", PATIENCE, || {
            (Arc::strong_count(&self.0) == 1).then_some(())
        });
    }
}
