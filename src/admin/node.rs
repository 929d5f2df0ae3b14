//! `PRESHARD NODE ADD | REMOVE | SET`: servers come, go, and take each other's place. No key moves.

use super::AdminContext;
use super::fleet::line;
use super::value::shown;
use super::words::is;
use crate::control::{self, Changed, Force};
use crate::resp::{Args, Value};
use crate::topology::Address;
use crate::topology::validate::{NAME_MAX, is_name};

/// `NODE ADD <name> <address>`: a node without shards.
pub(super) async fn add(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let name = word(args.get(rest))?;
    let address = address(args.get(rest + 1))?;
    control::admit_new(&context.shared, name, &address)
        .await
        .map_err(refusal)?;
    let changed = context.fleet.change(|topology| {
        let next = topology.with_node(name, address.clone());
        next.map_err(|error| error.to_string())
    });
    changed.await.map(done).map_err(refusal)
}

/// `NODE REMOVE <name>`: refused while shards live there, or a task may bring them there.
pub(super) async fn remove(context: &AdminContext, name: &[u8]) -> Result<Value, String> {
    let name = word(name)?;
    if let Some(why) = context.mover.why_stays(name).await.map_err(refusal)? {
        return Err(refusal(why));
    }
    let before = context.shared.topology.load_full();
    let changed = context.fleet.change(|topology| {
        let next = topology.without_node(name);
        next.map_err(|error| error.to_string())
    });
    let changed = changed.await.map_err(refusal)?;
    if let Some(node) = before.node_named(name) {
        control::release_node(&context.shared, &before, node).await;
    }
    Ok(done(changed))
}

/// `NODE SET <name> address <address> [FORCE]`: another server has the node's data now, or may begin without.
pub(super) async fn set(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let name = word(args.get(rest))?;
    if !is(args.get(rest + 1), "address") {
        return Err(format!(
            "ERR unknown option '{}': nodes have the option address",
            shown(args.get(rest + 1))
        ));
    }
    let address = address(args.get(rest + 2))?;
    let force = match args.try_get(rest + 3) {
        None => Force::No,
        Some(word) if is(word, "FORCE") => Force::Empty,
        Some(word) => {
            return Err(format!(
                "ERR unknown word '{}': the last one can be FORCE",
                shown(word)
            ));
        }
    };
    control::admit_successor(&context.shared, name, &address, force)
        .await
        .map_err(refusal)?;
    let changed = context.fleet.change(|topology| {
        let next = topology.with_address(name, address.clone());
        next.map_err(|error| error.to_string())
    });
    changed.await.map(done).map_err(refusal)
}

/// `OK`, or who has not followed in time.
pub(super) fn done(changed: Changed) -> Value {
    changed.warning().map_or(Value::OK, |warning| {
        Value::Simple(format!("OK {}", line(&warning)).into())
    })
}

/// A sentence as an error.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn refusal(why: String) -> String {
    format!("ERR {}", line(&why))
}

fn word(bytes: &[u8]) -> Result<&str, String> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| is_name(name));
    name.ok_or_else(|| {
        format!(
            "ERR '{}' is no node name: write 1 to {NAME_MAX} letters, digits, '.', '_' or '-'",
            shown(bytes)
        )
    })
}

fn address(bytes: &[u8]) -> Result<Address, String> {
    const BYTES_MAX: usize = 256;
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() <= BYTES_MAX);
    let Some(text) = text else {
        return Err(format!("ERR '{}' is no address of a node", shown(bytes)));
    };
    text.parse::<Address>()
        .map_err(|error| refusal(error.to_string()))
}
