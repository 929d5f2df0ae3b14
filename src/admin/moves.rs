//! `PRESHARD SHARD MOVE`, and what is wished of its task.

use super::AdminContext;
use super::fleet::line;
use super::node::refusal;
use super::shard::listed;
use super::value::{number, shown, text};
use super::words::is;
use crate::migration::{MAX_PAUSE_MS, MoveOrder, Wish};
use crate::resp::{Args, Value};

/// A move may hold its shards for so long at most.
const PAUSE_MS_MAX: u64 = 3_000;

/// `SHARD MOVE <n[-m][,…]> TO <node> [MANUAL] [RATE bytes/s] [MAXPAUSE ms]`: answers the id of its task, or of its tasks.
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
    let mut order = MoveOrder {
        shards,
        target: target.to_owned(),
        manual: false,
        rate: None,
        max_pause_ms: MAX_PAUSE_MS,
    };
    let mut at = rest + 3;
    while let Some(word) = args.try_get(at) {
        let value = args.try_get(at + 1).and_then(number::<u64>);
        match value {
            _ if is(word, "MANUAL") => {
                order.manual = true;
                at += 1;
                continue;
            }
            Some(rate) if is(word, "RATE") && rate > 0 => order.rate = Some(rate),
            Some(pause) if is(word, "MAXPAUSE") && (1..=PAUSE_MS_MAX).contains(&pause) => {
                order.max_pause_ms = pause;
            }
            Some(_) | None => {
                return Err(format!(
                    "ERR '{}' is no option here: MANUAL, RATE with bytes per second, MAXPAUSE with 1 to {PAUSE_MS_MAX} ms",
                    shown(word)
                ));
            }
        }
        at += 2;
    }
    let ids = context.mover.order(&order).await.map_err(refusal)?;
    Ok(match ids.as_slice() {
        [one] => text(one.as_str()),
        many => Value::Array(many.iter().map(|id| text(id.as_str())).collect()),
    })
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
