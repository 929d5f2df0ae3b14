//! The words of a request, kept while its program runs.

use crate::resp::{ArgRange, Args};

/// A copy of a request's arguments.
#[derive(Debug)]
pub(crate) struct Words {
    frame: Box<[u8]>,
    ranges: Box<[ArgRange]>,
}

impl Words {
    pub(crate) fn of(args: &Args<'_>) -> Self {
        Self {
            frame: args.frame().into(),
            ranges: (0..args.len()).filter_map(|at| args.range(at)).collect(),
        }
    }

    pub(crate) fn args(&self) -> Args<'_> {
        Args::new(&self.frame, &self.ranges)
    }

    /// Argument `at`, the command's name being 0.
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        self.args().get(at)
    }
}
