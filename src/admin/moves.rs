//! `PRESHARD SHARD MOVE`, and what is wished of its task.

use super::AdminContext;
use super::fleet::line;
use super::node::refusal;
use super::shard::listed;
use super::value::{int, number, row, shown, text};
use super::words::is;
use crate::migration::{MoveOrder, Sample, Survey, Verified, Wish};
use crate::resp::{Args, Value};

/// A move may hold its shards for so long at most.
const PAUSE_MS_MAX: u64 = 3_000;

/// `SHARD MOVE <n[-m][,…]> TO <node> [MANUAL] [VERIFY] [RATE bytes/s] [MAXPAUSE ms] [DRY]`: answers the id of its task,
/// in which stands what to know. DRY: what would come of it, and nothing is ordered.
pub(super) async fn shard_move(
    context: &AdminContext,
    args: &Args<'_>,
    rest: usize,
) -> Result<Value, String> {
    let shards = listed(&context.shared.topology.load(), args.get(rest))?;
    if !is(args.get(rest + 1), "TO") {
        return Err(format!(
            "ERR expected TO before the node, found '{}'",
            shown(args.get(rest + 1))
        ));
    }
    let target = std::str::from_utf8(args.get(rest + 2)).ok();
    let target = target.filter(|name| context.shared.topology.load().node_named(name).is_some());
    let Some(target) = target else {
        return Err(format!("ERR there is no node '{}'", shown(args.get(rest + 2))));
    };
    let settings = context.shared.settings.load().migration.clone();
    let pause_ms = settings.max_pause.as_millis();
    let mut order = MoveOrder {
        shards,
        target: target.to_owned(),
        manual: false,
        rate: settings.rate,
        max_pause_ms: u64::try_from(pause_ms).unwrap_or(PAUSE_MS_MAX),
        verify: None,
    };
    let (mut at, mut dry) = (rest + 3, false);
    while let Some(word) = args.try_get(at) {
        let value = args.try_get(at + 1).and_then(number::<u64>);
        match value {
            _ if is(word, "MANUAL") => {
                order.manual = true;
                at += 1;
                continue;
            }
            _ if is(word, "DRY") => {
                dry = true;
                at += 1;
                continue;
            }
            _ if is(word, "VERIFY") => {
                order.verify = Some(Sample::Usual);
                at += 1;
                continue;
            }
            Some(rate) if is(word, "RATE") => order.rate = (rate > 0).then_some(rate),
            Some(pause) if is(word, "MAXPAUSE") && (1..=PAUSE_MS_MAX).contains(&pause) => {
                order.max_pause_ms = pause;
            }
            Some(_) | None => {
                return Err(format!(
                    "ERR '{}' is no option here: MANUAL, VERIFY, DRY, RATE with bytes per second (0: no limit), MAXPAUSE with 1 to {PAUSE_MS_MAX} ms",
                    shown(word)
                ));
            }
        }
        at += 2;
    }
    if dry {
        let surveys = context.mover.survey(&order).await.map_err(refusal)?;
        return Ok(Value::Array(surveys.into_iter().map(surveyed).collect()));
    }
    // What an operator should know stands in the task, so that the answer is its id whatever was found.
    let ordered = context.mover.order(&order).await.map_err(refusal)?;
    Ok(text(ordered.id))
}

/// What would come of a move, as a row.
fn surveyed(survey: Survey) -> Value {
    let list = |lines: Vec<String>| Value::Array(lines.into_iter().map(text).collect());
    let fence = survey.fence().word();
    row([
        ("source", text(survey.source)),
        ("target", text(survey.target)),
        ("shards", text(survey.shards)),
        ("keys", int(survey.keys)),
        ("bytes", int(survey.bytes)),
        ("seconds", int(survey.seconds)),
        ("fence", text(fence)),
        (
            "rollback",
            text(survey.no_rollback.unwrap_or_else(|| "yes".to_owned())),
        ),
        ("refused", list(survey.refusals)),
        ("warnings", list(survey.warnings)),
    ])
}

/// One id, or several.
fn told(ids: &[String]) -> Value {
    match ids {
        [one] => text(one.as_str()),
        many => Value::Array(many.iter().map(|id| text(id.as_str())).collect()),
    }
}

/// `SHARD VERIFY <shards|task> [SAMPLE n|ALL]`: answers the id of the task, or the ids of those whose shards are meant.
pub(super) async fn shard_verify(
    context: &AdminContext,
    args: &Args<'_>,
    rest: usize,
) -> Result<Value, String> {
    let word = args.get(rest);
    let what = match listed(&context.shared.topology.load(), word) {
        Ok(shards) => Verified::Shards(shards),
        Err(_) if matches!(word.first(), Some(b'm' | b'p' | b'd')) => Verified::Task(shown(word)),
        Err(error) => return Err(error),
    };
    let sample = match (args.try_get(rest + 1), args.try_get(rest + 2)) {
        (None, _) => Sample::Usual,
        (Some(word), None) if is(word, "ALL") => Sample::All,
        (Some(word), Some(keys)) if is(word, "SAMPLE") => match number::<u64>(keys) {
            Some(keys) if keys > 0 => Sample::Keys(keys),
            _ => return Err(format!("ERR '{}' is no number of keys", shown(keys))),
        },
        (Some(word), _) => {
            return Err(format!(
                "ERR '{}' is no option here: SAMPLE with a number of keys, or ALL",
                shown(word)
            ));
        }
    };
    let ids = context.mover.verify(&what, sample).await.map_err(refusal)?;
    Ok(told(&ids))
}

/// `TASK CUTOVER | CANCEL | FINALIZE | ROLLBACK <id>`.
pub(super) async fn wish(context: &AdminContext, id: &[u8], wish: Wish) -> Result<Value, String> {
    let unknown = || format!("ERR there is no task '{}'. Try PRESHARD TASK LIST.", shown(id));
    let name = std::str::from_utf8(id)
        .ok()
        .filter(|name| name.len() <= 64)
        .ok_or_else(unknown)?;
    let known = context.fleet.store().record(name).await;
    match known {
        Ok(Some(_)) => {}
        Ok(None) | Err(crate::store::StoreError::Limit(_)) => return Err(unknown()),
        Err(error) => return Err(format!("ERR {}", line(&error.to_string()))),
    }
    context.mover.wish(name, wish).await.map_err(refusal)?;
    Ok(Value::OK)
}
