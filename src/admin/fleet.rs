//! `PRESHARD SHOW PROXIES`, `PRESHARD TOPOLOGY LOAD <json> [FORCE]`: the proxies of the cluster, and what all of them serve.

use super::AdminContext;
use super::value::{int, row, shown, text};
use super::words::is;
use crate::control::FleetView;
use crate::resp::{Args, Value};
use crate::store::ProxyRecord;
use crate::topology::Topology;

/// One row a proxy, the oldest first.
pub(super) fn proxies(context: &AdminContext) -> Value {
    let view = context.fleet.view();
    let shared = &context.shared;
    let now = shared.started_unix.saturating_add(shared.now_ms() / 1000);
    let rows = view
        .proxies
        .iter()
        .map(|proxy| proxy_row(proxy, &view, now, shared.now_ms()));
    Value::Array(rows.collect())
}

fn proxy_row(proxy: &ProxyRecord, view: &FleetView, now_unix: u64, own_uptime_ms: u64) -> Value {
    let is_own = proxy.id == view.own.id;
    let uptime = if is_own {
        own_uptime_ms
    } else {
        now_unix.saturating_sub(proxy.started).saturating_mul(1000)
    };
    let leads = view.leader.as_ref().is_some_and(|(id, _)| *id == proxy.id);
    // Without the store nobody knows how the others are.
    let state = if is_own || view.lost.is_none() {
        "live"
    } else {
        "unknown"
    };
    row([
        ("id", text(proxy.id.as_str())),
        ("address", text(proxy.address.as_str())),
        ("admin", text(proxy.admin.as_str())),
        ("version", text(proxy.version.as_str())),
        ("state", text(state)),
        ("epoch", int(proxy.epoch)),
        ("clients", int(proxy.clients)),
        ("uptime", int(uptime)),
        ("leader", int(u8::from(leads))),
        ("self", int(u8::from(is_own))),
    ])
}

/// Puts a saved document in force. Answers `OK`, or who has not followed in time.
pub(super) async fn load(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let force = match args.try_get(rest + 1) {
        None => false,
        Some(word) if is(word, "FORCE") => true,
        Some(word) => {
            return Err(format!(
                "ERR unknown option '{}'. Usage: PRESHARD TOPOLOGY LOAD <json> [FORCE]",
                shown(word)
            ));
        }
    };
    let saved = Topology::decode(args.get(rest))
        .map_err(|error| format!("ERR this topology cannot be loaded, and nothing was changed: {error}"))?;
    let changed = Box::pin(context.fleet.restore(&saved, force)).await;
    let changed = changed.map_err(|why| format!("ERR {}", line(&why)))?;
    Ok(changed
        .warning()
        .map_or(Value::OK, |warning| Value::Simple(format!("OK {warning}").into())))
}

/// An error is one line that a terminal can show, whatever it quotes.
pub(super) fn line(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(CHARS_MAX).map(shown).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}
