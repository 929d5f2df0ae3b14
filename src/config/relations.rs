//! What must hold between the values of several keys.

use super::Config;
use super::keys::NODES_COST;
use super::mistake::Origin;
use super::raw::Raw;
use super::units::format_bytes;
use crate::command;
use crate::topology::{Address, Invalid, validate};
use std::collections::HashMap;

/// Tells every disagreement.
pub(super) fn check(raw: &mut Raw, config: &Config) {
    check_sizes(raw, config);
    check_layout(raw, config);
    check_listeners(raw, config);
    check_advertised(raw, config);
    super::tls::check(raw, config);
    check_default_user(raw, config);
}

/// One password for all is the user `default`: only one place may say who that is.
fn check_default_user(raw: &mut Raw, config: &Config) {
    if config.proxy.password.is_some()
        && let Some(origin) = raw.default_user_at.clone()
    {
        let what = "the user 'default' has a [[user]] table, and proxy.password_… is its password too";
        raw.tell(
            origin,
            what,
            "move the password into the table, or remove the table",
        );
    }
}

fn check_sizes(raw: &mut Raw, config: &Config) {
    let proxy = &config.proxy;
    let mut ordered = |low: (&str, usize), high: (&str, usize)| {
        if low.1 > high.1 {
            let bytes = |bytes: usize| format_bytes(u64::try_from(bytes).unwrap_or(u64::MAX));
            let what = format!(
                "{} ({}) exceeds {} ({})",
                low.0,
                bytes(low.1),
                high.0,
                bytes(high.1)
            );
            let origin = match raw.origin(low.0) {
                Origin::Whole => raw.origin(high.0),
                origin => origin,
            };
            raw.tell(origin, what, "raise the one or lower the other");
        }
    };
    ordered(
        ("proxy.output_bytes_soft", proxy.output_bytes_soft),
        ("proxy.output_bytes_hard", proxy.output_bytes_hard),
    );
    ordered(
        ("proxy.request_bytes_max", proxy.request_bytes_max),
        ("proxy.request_memory_max", proxy.request_memory_max),
    );
    if config.nodes.username.is_some() && !raw.values.contains_key("nodes.password_file") {
        let origin = raw.origin("nodes.username");
        raw.tell(
            origin,
            "nodes.username is set without nodes.password_file",
            "add the password file",
        );
    }
}

fn check_layout(raw: &mut Raw, config: &Config) {
    let (shards, pinned) = (config.topology.shards, config.topology.pinned);
    for wrong in validate::check_counts(shards, pinned) {
        if matches!(wrong, Invalid::Databases { .. }) {
            let origin = match raw.origin("topology.pinned") {
                Origin::Whole => raw.origin("topology.shards"),
                origin => origin,
            };
            raw.tell(origin, wrong.to_string(), NODES_COST);
        }
    }
}

pub(super) fn check_listeners(raw: &mut Raw, config: &Config) {
    let (proxy, admin) = (&config.proxy, &config.admin);
    if proxy.listen.is_empty() && proxy.listen_tls.is_empty() && !raw.is_wrong("proxy.listen") {
        let what = "proxy.listen or proxy.listen_tls must name at least one address";
        raw.tell(raw.origin("proxy.listen"), what, "");
    }
    let plain = proxy.listen.iter().map(|address| ("proxy.listen", address));
    let secured = proxy
        .listen_tls
        .iter()
        .map(|address| ("proxy.listen_tls", address));
    let data = plain.chain(secured);
    let others = [
        ("admin.listen", admin.listen.as_ref()),
        ("admin.listen_tls", admin.listen_tls.as_ref()),
        ("admin.http", admin.http.as_ref()),
        ("admin.http_tls", admin.http_tls.as_ref()),
    ];
    let others = others
        .into_iter()
        .filter_map(|(path, address)| address.map(|address| (path, address)));
    let mut seen: HashMap<&Address, &str> = HashMap::new();
    for (path, address) in data.chain(others) {
        if address.port() == Some(0) {
            continue;
        }
        if let Some(first) = seen.insert(address, path) {
            let what = format!("{first} and {path} both name {address}");
            raw.tell(raw.origin(path), what, "give each listener its own address");
        }
    }
    let certified = config.tls.requires_client_certificates();
    for (path, address) in [
        ("admin.listen", admin.listen.as_ref()),
        (
            "admin.listen_tls",
            admin.listen_tls.as_ref().filter(|_| !certified),
        ),
    ] {
        if let Some(address) = address.filter(|address| !address.is_loopback())
            && !config.admin_is_guarded()
        {
            let what = format!("{path} {address} can be reached from other machines and has no password");
            let hint = "set admin.password_file, add a [[user]] with the right admin or monitor, or listen on 127.0.0.1";
            raw.tell(raw.origin(path), what, hint);
        }
    }
}

/// Clients in cluster mode must be told an address that leads here.
fn check_advertised(raw: &mut Raw, config: &Config) {
    let proxy = &config.proxy;
    // An address that was given and is wrong has been told.
    if !proxy.cluster_emulation || proxy.advertise.is_some() || raw.values.contains_key("proxy.advertise") {
        return;
    }
    let mut listeners = proxy.listen.iter().chain(&proxy.listen_tls);
    let what = match listeners.find(|address| address.port().is_some()) {
        None => "proxy.cluster_emulation needs a TCP address to tell clients, and proxy.listen has none"
            .to_owned(),
        Some(address) if address.is_wildcard() => {
            format!(
                "proxy.cluster_emulation tells clients where to connect, and proxy.listen {address} stands for every address \
                 of this machine"
            )
        }
        Some(_) => return,
    };
    let hint = "set proxy.advertise to the host:port by which clients reach this proxy";
    raw.tell(raw.origin("proxy.cluster_emulation"), what, hint);
}

/// Commands that run code.
const CODE: [&[u8]; 6] = [
    b"eval",
    b"evalsha",
    b"eval_ro",
    b"evalsha_ro",
    b"fcall",
    b"fcall_ro",
];

/// What is allowed but worth a line in the log.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let unused = config
        .proxy
        .advertise
        .as_ref()
        .filter(|_| !config.proxy.cluster_emulation);
    let unused = unused
        .map(|address| format!("proxy.advertise {address} has no effect: proxy.cluster_emulation is false"));
    let certified = config.tls.requires_client_certificates();
    let plain = config
        .proxy
        .listen
        .iter()
        .map(|address| ("proxy.listen", address));
    let secured = config.proxy.listen_tls.iter().filter(|_| !certified);
    let open = plain.chain(secured.map(|address| ("proxy.listen_tls", address)));
    let open = open.filter(|(_, address)| !config.data_is_guarded() && !address.is_loopback());
    let scripts = config.users.iter().filter(|user| {
        let may = |name: &[u8]| command::lookup(name).is_some_and(|spec| user.rules.commands().has(spec.id));
        user.enabled && user.rules.has_key_limit() && CODE.iter().any(|name| may(name))
    });
    let scripts = scripts.map(|user| {
        format!(
            "user '{}' is limited to some keys and may run scripts, which can reach all keys of their shard: \
             take +eval and its like out of its commands unless it is trusted",
            user.name
        )
    });
    open.map(|(path, address)| {
        format!(
            "{path} {address} can be reached from other machines and has no password: \
             set proxy.password_file, or keep others out by other means"
        )
    })
    .chain(unused)
    .chain(scripts)
    .chain(super::tls::warnings(config))
    .collect()
}
