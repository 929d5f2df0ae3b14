//! `PRESHARD CHECK`: is everything as it should be? Asks every node, and looks at the settings.
//!
//! Rows of `node check result hint`; `result` is `ok`, `warning` or `failed`; `node` is empty for what concerns the
//! proxy itself.

use super::AdminContext;
use super::show::login_of;
use super::value::{row, text};
use crate::config::AclUsers;
use crate::control::{self, Preflight};
use crate::resp::Value;
use crate::topology::Topology;

/// One finding.
struct Finding {
    node: String,
    check: &'static str,
    result: &'static str,
    hint: String,
}

pub(super) async fn check(context: &AdminContext) -> Value {
    let topology = context.shared.topology.load_full();
    let shared = &context.shared;
    // The topology is in force, so a mark of another cluster on a node is somebody else's.
    let (credentials, deadline) = shared.admin_login();
    let asked = control::check_nodes(&topology, &credentials, deadline, false);
    let found = Box::pin(asked).await;
    let mut findings = of_nodes(&topology, &found);
    findings.extend(of_access(context, &topology, &found).await);
    findings.extend(of_settings(context, &topology));
    let rows = findings.into_iter().map(|finding| {
        row([
            ("node", text(finding.node)),
            ("check", text(finding.check)),
            ("result", text(finding.result)),
            ("hint", text(finding.hint)),
        ])
    });
    Value::Array(rows.collect())
}

fn of_nodes(topology: &Topology, found: &Preflight) -> Vec<Finding> {
    let mut findings = Vec::new();
    for described in &topology.nodes {
        let mut tell = |check, result, hint| {
            findings.push(Finding {
                node: described.name.clone(),
                check,
                result,
                hint,
            });
        };
        let of_node = |problem: &&control::NodeProblem| problem.node == described.name;
        for problem in found.problems.iter().filter(of_node) {
            let check = if problem.unreachable { "reachable" } else { "fits" };
            tell(check, "failed", format!("{} {}", described.address, problem.what));
        }
        if let Some((_, version)) = found.versions.iter().find(|(name, _)| *name == described.name) {
            tell(
                "fits",
                "ok",
                format!("{} runs version {version}", described.address),
            );
        }
        for warning in found.warnings.iter().filter(of_node) {
            tell("settings", "warning", warning.what.clone());
        }
    }
    findings
}

/// As whom requests run on each node, and whether others get in beside.
async fn of_access(context: &AdminContext, topology: &Topology, found: &Preflight) -> Vec<Finding> {
    let shared = &context.shared;
    let (credentials, deadline) = shared.admin_login();
    let mut findings = Vec::new();
    for (node, described) in topology.nodes_by_index() {
        let mut tell = |result, hint| {
            findings.push(Finding {
                node: described.name.clone(),
                check: "access",
                result,
                hint,
            });
        };
        let login = login_of(topology, node);
        if topology.access.contains_key(&node) {
            tell("ok", format!("requests run as {login}, which preshard has made"));
        } else if shared.acl_users == AclUsers::Off {
            let hint = "requests run as the configured user, since [nodes] acl_users is off: without a user of its own preshard cannot \
                        shut out a proxy that is behind";
            tell("ok", hint.to_owned());
        } else {
            let hint = "requests run as the configured user: preshard has made no users here. Its login for administration must be \
                        allowed to (`+@all ~* &*`), and the server must have ACLs; docs/OPERATIONS.md";
            tell("warning", hint.to_owned());
        }
        let answers = found.versions.iter().any(|(name, _)| *name == described.name);
        if !answers || !topology.access.contains_key(&node) {
            continue;
        }
        let asked = control::is_default_open(&described.address, &credentials, deadline);
        // Who may not ask cannot be told.
        if let Ok(true) = asked.await {
            let hint = "its user `default` is on and wants no password: whoever reaches the node gets past preshard. Give [nodes] an \
                        admin_username of its own and turn `default` off (docs/OPERATIONS.md)";
            tell("warning", hint.to_owned());
        }
    }
    findings
}

fn of_settings(context: &AdminContext, topology: &Topology) -> Vec<Finding> {
    let config = context.live.config();
    let mut findings = Vec::new();
    let mut tell = |check, result, hint: String| {
        findings.push(Finding {
            node: String::new(),
            check,
            result,
            hint,
        });
    };
    let listeners = config
        .proxy
        .listen
        .iter()
        .map(|address| ("proxy", address, config.data_is_guarded()));
    let admin = config
        .admin
        .listen
        .iter()
        .map(|address| ("admin", address, config.admin_is_guarded()));
    for (section, address, has_password) in listeners.chain(admin) {
        if has_password {
            tell(
                "password",
                "ok",
                format!("{section}.listen {address} wants a password"),
            );
        } else if address.is_loopback() {
            tell(
                "password",
                "ok",
                format!("{section}.listen {address} has none, and only this machine reaches it"),
            );
        } else {
            let hint = format!(
                "{section}.listen {address} can be reached from other machines and has none: set {section}.password_file"
            );
            tell("password", "warning", hint);
        }
    }
    if let Some(address) = config
        .admin
        .http
        .as_ref()
        .filter(|address| !address.is_loopback())
    {
        let hint =
            format!("admin.http {address} shows metrics and topology to other machines, without a password");
        tell("http", "warning", hint);
    }
    for node in config
        .topology
        .nodes
        .iter()
        .filter(|node| topology.node_named(&node.name).is_none())
    {
        let hint = format!(
            "[[topology.nodes]] names {}, which the topology does not have: the config seeds the first topology only",
            node.name
        );
        tell("topology", "warning", hint);
    }
    findings
}
