//! A copy as a move has it: where it is made to, and stopped once.

#[cfg(not(test))]
use super::Copy;
use super::cutover::Failure;
use super::holder::Holder;
#[cfg(test)]
use super::sim::Copy;
use crate::topology::Address;

/// A copy until it is stopped.
pub(super) struct Running {
    copy: Option<Copy>,
    target: Address,
}

impl Running {
    /// `target`: where it is copied to.
    pub(super) const fn new(copy: Copy, target: Address) -> Self {
        Self {
            copy: Some(copy),
            target,
        }
    }

    /// The copy, if it was not stopped.
    pub(super) fn take(self) -> Option<Copy> {
        self.copy
    }

    pub(super) fn copy(&mut self) -> Result<&mut Copy, Failure> {
        let stopped = || Failure::Final("its copy was stopped".to_owned());
        self.copy.as_mut().ok_or_else(stopped)
    }

    /// Where it is copied to.
    pub(super) const fn target(&self) -> &Address {
        &self.target
    }

    /// The server that has it.
    pub(super) fn holder(&mut self) -> Result<Holder, Failure> {
        Ok(Holder {
            run_id: self.copy()?.progress().target_run_id,
            address: self.target.clone(),
        })
    }

    /// Stops it: nothing more is written to the target.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        match self.copy.take() {
            Some(copy) => copy
                .stop()
                .await
                .map_err(|error| Failure::Final(error.to_string())),
            None => Ok(()),
        }
    }
}
