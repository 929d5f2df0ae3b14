//! Functions on both nodes of a move: what is loaded, replaced or deleted while it goes on reaches a target without shards only here.
//!
//! ```text
//!  copy begins     the target is given what other nodes have (`bring_functions`)
//!  before the freeze   what the source has and the target has not ─▶ FUNCTION LOAD REPLACE, DELETE
//!  behind the commit   what only one of them was told meanwhile   ─▶ the same
//! ```
//!
//! Clients' `FUNCTION LOAD` and `DELETE` go to all nodes that have shards, and within a pause one that was on its way to the source may
//! end at the target. So what has changed on one side since both were looked at last, and not on the other, is what that one was not
//! told.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::cutover::Failure;
use super::drive::Driven;
use crate::control::{Libraries, NodeClient, libraries_on};

/// What a client is just loading has come to all nodes after this time.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// The libraries of source and target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sides {
    source: Libraries,
    target: Libraries,
}

/// What both nodes had when it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Sides>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes one node as the other is.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Load(&'a [u8]),
    Delete(&'a [u8]),
}

/// What has changed on one side, and not on the other: each side as it was and as it is.
fn untold<'a>(one: (&'a Libraries, &'a Libraries), other: (&Libraries, &Libraries)) -> Vec<Change<'a>> {
    let names: BTreeSet<&'a Vec<u8>> = one.0.keys().chain(one.1.keys()).collect();
    let change = |name: &'a Vec<u8>| {
        let (was, is) = (one.0.get(name), one.1.get(name));
        let (other_was, other_is) = (other.0.get(name), other.1.get(name));
        let is_untold = was != is && other_was == other_is && other_is != is;
        is_untold.then(|| is.map_or(Change::Delete(name.as_slice()), |code| Change::Load(code)))
    };
    names.into_iter().filter_map(change).collect()
}

/// What the target lacks before a freeze, and names of libraries of which nobody knows who is right. `serves`: it has shards, so
/// clients' commands have come to it as well.
fn lacking<'a>(was: &'a Sides, is: &'a Sides, serves: bool) -> (Vec<Change<'a>>, Vec<&'a [u8]>) {
    let mut changes = untold((&was.source, &is.source), (&was.target, &is.target));
    let mut unclear = Vec::new();
    for (name, code) in &is.source {
        let load = Change::Load(code);
        match is.target.get(name) {
            Some(theirs) if theirs == code => {}
            _ if changes.contains(&load) => {}
            Some(_) if serves => unclear.push(name.as_slice()),
            Some(_) | None => changes.push(load),
        }
    }
    (changes, unclear)
}

impl Driven<'_> {
    /// Notes what both nodes have when the copy begins.
    pub(super) async fn note_functions(
        &self,
        source: &mut NodeClient,
        target: &mut NodeClient,
    ) -> Result<(), Failure> {
        let sides = Sides::of(source, target).await?;
        *self.functions.lock() = sides;
        Ok(())
    }

    /// Gives the target what the source has, right before the freeze.
    pub(super) async fn level_functions(
        &self,
        source: &mut NodeClient,
        target: &mut NodeClient,
    ) -> Result<(), Failure> {
        let topology = self.shared.topology.load_full();
        let node = self.node(&topology, &self.target)?;
        let serves = topology.shards_on(node).next().is_some();
        let mut is = Sides::of(source, target).await?;
        if serves && is.source != is.target {
            sleep(UNDER_WAY).await;
            is = Sides::of(source, target).await?;
        }
        let was = self.functions.lock().clone();
        let (changes, unclear) = lacking(&was, &is, serves);
        self.apply(target, &self.target, &changes).await?;
        if let Some(unclear) = named(&unclear) {
            return Err(Failure::Retry(format!(
                "node '{}' has other code than '{}' in the libraries of functions {unclear}; FUNCTION LOAD REPLACE through preshard \
                 makes them equal",
                self.target, self.source
            )));
        }
        let known = if changes.is_empty() {
            is
        } else {
            Sides::of(source, target).await?
        };
        *self.functions.lock() = known;
        Ok(())
    }

    /// The same for what only one of them was told after that, and before the commit. Nothing else depends on it.
    pub(super) async fn settle_functions(&self, source: &mut NodeClient, target: &mut NodeClient) {
        let settled = async {
            let was = self.functions.lock().clone();
            let mut is = Sides::of(source, target).await?;
            if is == was {
                return Ok(());
            }
            sleep(UNDER_WAY).await;
            is = Sides::of(source, target).await?;
            let (ours, theirs) = ((&was.source, &is.source), (&was.target, &is.target));
            self.apply(target, &self.target, &untold(ours, theirs)).await?;
            self.apply(source, &self.source, &untold(theirs, ours)).await?;
            self.note_functions(source, target).await
        };
        if let Err(error) = settled.await {
            tracing::info!(event = "functions_not_settled", task = self.id, %error);
        }
    }

    async fn apply(&self, to: &mut NodeClient, node: &str, changes: &[Change<'_>]) -> Result<(), Failure> {
        for change in changes {
            match change {
                Change::Load(code) => to.ask_bytes(&[b"FUNCTION", b"LOAD", b"REPLACE", code]).await?,
                Change::Delete(name) => to.ask_bytes(&[b"FUNCTION", b"DELETE", name]).await?,
            };
        }
        if !changes.is_empty() {
            let libraries = changes.len();
            tracing::info!(event = "functions_levelled", task = self.id, node, libraries);
        }
        Ok(())
    }
}

impl Sides {
    /// A server without functions has none.
    async fn of(source: &mut NodeClient, target: &mut NodeClient) -> Result<Self, Failure> {
        Ok(Self {
            source: libraries_on(source).await?,
            target: libraries_on(target).await?,
        })
    }
}

fn named(names: &[&[u8]]) -> Option<String> {
    let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries(all: &[(&str, &str)]) -> Libraries {
        let owned = |(name, code): &(&str, &str)| (name.as_bytes().to_vec(), code.as_bytes().to_vec());
        all.iter().map(owned).collect()
    }

    fn sides(source: &[(&str, &str)], target: &[(&str, &str)]) -> Sides {
        Sides {
            source: libraries(source),
            target: libraries(target),
        }
    }

    #[test]
    fn a_target_that_is_told_nothing_becomes_as_the_source_is_and_keeps_what_it_has_of_its_own() {
        let known = [("kept", "1"), ("replaced", "1"), ("deleted", "1")];
        let was = sides(&known, &[known[0], known[1], known[2], ("own", "1")]);
        let is = Sides {
            source: libraries(&[("kept", "1"), ("replaced", "2"), ("new", "n")]),
            ..was.clone()
        };
        let (done, unclear) = lacking(&was, &is, false);
        let wanted = [Change::Delete(b"deleted"), Change::Load(b"n"), Change::Load(b"2")];
        assert_eq!((done.as_slice(), unclear.len()), (&wanted[..], 0));
        // Whoever leads now knows nothing of before, and deletes nothing.
        let none = Sides::default();
        let (done, _) = lacking(&none, &is, false);
        assert_eq!(done, [Change::Load(b"n"), Change::Load(b"2")]);
    }

    #[test]
    fn a_target_with_shards_is_given_what_it_lacks_and_nothing_in_place_of_what_it_was_told() {
        let was = sides(&[("a", "1"), ("b", "1")], &[("a", "1"), ("b", "1")]);
        let is = sides(
            &[("a", "1"), ("b", "2"), ("new", "n"), ("same", "s")],
            &[("a", "3"), ("b", "1"), ("same", "s")],
        );
        let (done, unclear) = lacking(&was, &is, true);
        assert_eq!(done, [Change::Load(b"2"), Change::Load(b"n")]);
        assert_eq!(unclear, [b"a"]);
    }

    #[test]
    fn what_one_side_was_told_alone_is_told_to_the_other_one() {
        let was = sides(
            &[("late", "1"), ("there", "1"), ("gone", "1"), ("both", "1")],
            &[
                ("late", "1"),
                ("there", "1"),
                ("gone", "1"),
                ("both", "1"),
                ("own", "1"),
            ],
        );
        let is = sides(
            &[("late", "2"), ("there", "1"), ("both", "3")],
            &[
                ("late", "1"),
                ("there", "2"),
                ("gone", "1"),
                ("both", "2"),
                ("own", "1"),
            ],
        );
        let (ours, theirs) = ((&was.source, &is.source), (&was.target, &is.target));
        assert_eq!(
            untold(ours, theirs),
            [Change::Delete(b"gone"), Change::Load(b"2")]
        );
        assert_eq!(untold(theirs, ours), [Change::Load(b"2")]);
        assert!(untold((&was.source, &was.source), theirs).is_empty());
    }
}
