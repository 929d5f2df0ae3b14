//! Whether a target that follows comes any closer to its source. If writers are faster than the copy, it never does, and somebody
//! must be told.
//!
//! ```text
//!  behind │ ╱╲    ╱╲              a span of 30 s, and the one before it: the lowest of each
//!         │╱  ╲╱╲╱  ╲╱╲           lower by a sixteenth, or close enough: it comes closer; else it lags, and does until it comes closer
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::copy::LAG_BYTES;
use super::task::Move;

/// Looked at together.
const SPAN: Duration = Duration::from_secs(30);
/// A lag that shrinks by less than this part of it in a span would take very long.
const PART: u64 = 16;
/// How the warning of a task begins.
const WORDS: &str = "the target does not come closer to the source";

/// What was seen of one copy's lag.
#[derive(Debug, Default)]
pub(super) struct LagWatch {
    /// When this span began, and the lowest in it.
    span: Option<(Instant, u64)>,
    /// The same of the one before.
    before: Option<(Instant, u64)>,
    lags_since: Option<Instant>,
}

impl LagWatch {
    /// Takes down how many bytes the target is behind now; none: it does not follow yet. Says since when it has not come closer,
    /// if that is for so long that it counts.
    pub(super) fn note(&mut self, behind: Option<u64>, now: Instant) -> Option<Duration> {
        let Some(behind) = behind else {
            *self = Self::default();
            return None;
        };
        let (began, lowest) = self.span.unwrap_or((now, behind));
        let lowest = lowest.min(behind);
        self.span = Some((began, lowest));
        if now.duration_since(began) >= SPAN {
            if let Some((since, before)) = self.before {
                // What is close now and then waits for something else than the stream.
                let shrinks = lowest <= LAG_BYTES || lowest < before - before / PART;
                self.lags_since = (!shrinks).then(|| self.lags_since.unwrap_or(since));
            }
            self.before = Some((began, lowest));
            self.span = None;
        }
        self.lags_since.map(|since| now.duration_since(since))
    }
}

/// Has the record say for how long the target has not come closer, and what can be done; not any more, if that is nothing.
pub(super) fn tell(task: &mut Move, lagging: Duration) {
    task.lagging_seconds = lagging.as_secs();
    task.warnings.retain(|warning| !warning.starts_with(WORDS));
    if task.lagging_seconds > 0 {
        task.warnings.push(format!(
            "{WORDS}: for {} s its lag has not shrunk ({} bytes at present), since writes come faster than the target takes them. It \
             cuts over by itself once fewer come. Else: TASK CANCEL, and then fewer shards in one move, or a higher [migration] \
             target_latency if the target's PING is what slows the copy down",
            task.lagging_seconds, task.lag_bytes
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said while a lag goes on as `behind` says, for each second.
    fn said(
        watch: &mut LagWatch,
        from: Instant,
        seconds: std::ops::Range<u64>,
        behind: impl Fn(u64) -> u64,
    ) -> Vec<u64> {
        let each = seconds.filter_map(|second| {
            let said = watch.note(Some(behind(second)), from + Duration::from_secs(second));
            said.map(|said| said.as_secs())
        });
        each.collect()
    }

    #[test]
    fn a_lag_that_grows_or_stays_is_told_and_one_that_shrinks_is_not() {
        let now = Instant::now();
        let of = |behind: &dyn Fn(u64) -> u64| said(&mut LagWatch::default(), now, 0..200, behind);
        let grows = of(&|second| 1_000_000 * second);
        assert_eq!(grows.first(), Some(&61), "two spans, and one moment between them");
        assert_eq!(grows.last(), Some(&199));
        assert!(!of(&|_| LAG_BYTES + 1).is_empty());
        assert!(of(&|_| LAG_BYTES).is_empty(), "as close as a cutover needs it");
        assert!(
            of(&|second| second % 7 * LAG_BYTES).is_empty(),
            "close now and then: more writes are not what it waits for"
        );
        assert_eq!(of(&|second| 1_000_000 - second * 5_000), Vec::<u64>::new());
        // Up and down, and downwards all the same.
        assert_eq!(
            of(&|second| 1_000_000 - second * 5_000 + second % 5 * 20_000),
            Vec::<u64>::new()
        );
        assert_eq!(LagWatch::default().note(None, now), None);
    }

    #[test]
    fn a_lag_that_shrinks_at_last_is_over() {
        let (mut watch, now) = (LagWatch::default(), Instant::now());
        assert!(!said(&mut watch, now, 0..100, |second| second * 1_000_000).is_empty());
        let shrinks = said(&mut watch, now, 100..300, |second| (300 - second) * 400_000);
        assert!(
            shrinks.len() < 65,
            "for the rest of the span, and at most one more: {}",
            shrinks.len()
        );
        assert_eq!(
            watch.note(None, now),
            None,
            "a copy that begins again is looked at anew"
        );
        assert!(said(&mut watch, now, 300..350, |_| 7).is_empty());
    }

    #[test]
    fn the_warning_is_there_once_and_goes() {
        let mut task = Move {
            warnings: vec!["another".to_owned()],
            ..Move::default()
        };
        for seconds in [61, 64] {
            task.lag_bytes += 10;
            tell(&mut task, Duration::from_secs(seconds));
        }
        assert_eq!((task.lagging_seconds, task.warnings.len()), (64, 2));
        assert!(task.warnings[1].contains("for 64 s") && task.warnings[1].contains("(20 bytes"));
        tell(&mut task, Duration::ZERO);
        assert_eq!(
            (task.lagging_seconds, task.warnings),
            (0, vec!["another".to_owned()])
        );
    }
}
