//! What a user meets: defaults, mistakes, overrides, secrets.

use super::*;
use std::fs;

const MINIMAL: &str = r#"
[proxy]
listen = "127.0.0.1:6380"
workers = 0

[admin]
listen = "127.0.0.1:6381"
http   = "127.0.0.1:6382"

[topology]
store  = "file:preshard-topology.json"
shards = 1024
pinned = 15
[[topology.nodes]]
name = "redis-1"
address = "127.0.0.1:7001"
[[topology.nodes]]
name = "redis-2"
address = "127.0.0.1:7002"
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("/etc/preshard/preshard.toml"), text, std::iter::empty())
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::parse(Path::new("/etc/preshard/preshard.toml"), text, env)
}

/// The mistakes, each on one line.
fn told(result: Result<Config, ConfigErrors>) -> Vec<String> {
    let errors = result.unwrap_err().0;
    errors
        .into_iter()
        .map(|error| format!("{}: {}", error.place, error.what))
        .collect()
}

/// A folder of its own, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("preshard-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.proxy.listen, ["127.0.0.1:6380".parse().unwrap()]);
    assert_eq!(config.proxy.max_clients, 10_000);
    assert_eq!(config.proxy.idle_timeout, None);
    assert_eq!(config.proxy.tcp_keepalive, Some(Duration::from_secs(60)));
    assert_eq!(config.proxy.request_bytes_max, 64 << 20);
    assert_eq!(config.proxy.request_timeout, Some(Duration::from_secs(2)));
    assert_eq!(config.nodes.shared_connections, 1);
    assert_eq!(config.nodes.batches_in_flight, Batches::Auto);
    assert_eq!(config.topology.shards, 1024);
    assert_eq!(config.topology.pinned, 15);
    assert_eq!(config.log.level, LogLevel::Info);
    assert!(config.warnings.is_empty());
}

#[test]
fn the_minimal_file_says_the_defaults_and_names_nodes() {
    let (minimal, mut empty) = (parse(MINIMAL).unwrap(), parse("").unwrap());
    assert_eq!(minimal.topology.nodes.len(), 2);
    assert_eq!(
        minimal.topology.store,
        StorePlace::File("/etc/preshard/preshard-topology.json".into())
    );
    empty.topology.nodes.clone_from(&minimal.topology.nodes);
    assert_eq!(minimal, empty);
}

#[test]
fn the_sample_file_loads_and_says_the_defaults() {
    let sample = parse(&docs::sample_file()).unwrap();
    assert_eq!(sample, parse(MINIMAL).unwrap());
}

#[test]
fn every_default_is_within_its_own_limits() {
    for key in keys::KEYS {
        let Some(default) = key.default else { continue };
        let text = format!("{}={default}", key.path);
        let env = [(
            format!(
                "{}{}",
                raw::ENV_PREFIX,
                key.path.to_uppercase().replace('.', "__")
            ),
            default,
        )];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert!(with_env("", &env).is_ok(), "{text}");
    }
}

#[test]
fn every_key_of_the_table_is_read() {
    let wrong = "\u{1}";
    for key in keys::KEYS {
        // Names of files and users may be anything; the first fails when it is opened.
        let reaches = |part: &str| key.path.split(['.', '_']).any(|word| word == part);
        let of_outbound_tls = reaches("tls") || key.path.starts_with("topology.store_");
        let is_username = matches!(key.path, "nodes.username" | "nodes.admin_username");
        if is_username || of_outbound_tls && (reaches("ca") || reaches("name")) {
            continue;
        }
        let name = format!(
            "{}{}",
            raw::ENV_PREFIX,
            key.path.to_uppercase().replace('.', "__")
        );
        let mistakes = told(with_env("", &[(&name, wrong)]));
        assert!(
            mistakes[0].starts_with(&format!("environment variable {name}: ")),
            "{mistakes:?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = r#"
[proxy]
listen = "nowhere"
wrokers = 2
max_clients = 0
request_timeout = 5
drain_timeout = "soon"
output_bytes_soft = "128MiB"
[nodes]
on_empty = "shrug"
batches_in_flight = 9
admin_username = "a"
[topology]
store = "etcd://h1,h2:2379/preshard"
shards = 1000
[[topology.nodes]]
name = "a"
[[topology.nodes]]
name = "a"
address = "h:1"
[[topology.nodes]]
name = "a"
address = "h:1"
[lgo]
[commands]
allow = ["FOO"]
"#;
    assert_eq!(
        told(parse(text)),
        [
            "/etc/preshard/preshard.toml:3:10: proxy.listen: 'nowhere' has no port: write host:port, [v6]:port or unix:/path",
            "/etc/preshard/preshard.toml:4:1: unknown key proxy.wrokers",
            "/etc/preshard/preshard.toml:5:15: proxy.max_clients must be a whole number between 1 and 1000000",
            "/etc/preshard/preshard.toml:6:19: proxy.request_timeout must be 0 (none) or a duration between 1ms and 1h",
            "/etc/preshard/preshard.toml:7:17: proxy.drain_timeout must be a duration between 1ms and 1h",
            "/etc/preshard/preshard.toml:8:21: proxy.output_bytes_soft (128MiB) exceeds proxy.output_bytes_hard (64MiB)",
            "/etc/preshard/preshard.toml:10:12: nodes.on_empty must be one of serve, refuse",
            "/etc/preshard/preshard.toml:11:21: nodes.batches_in_flight must be \"auto\" or a whole number between 1 and 8",
            "/etc/preshard/preshard.toml:12:18: nodes.admin_username is set without nodes.admin_password_file",
            "/etc/preshard/preshard.toml:14:9: topology.store: 'h1' is no HOST:PORT",
            "/etc/preshard/preshard.toml:15:10: topology.shards must be a power of two",
            "/etc/preshard/preshard.toml:16:1: a node without address",
            "/etc/preshard/preshard.toml:22:8: node name 'a' is used twice",
            "/etc/preshard/preshard.toml:23:11: nodes 'a' and 'a' have the same address h:1",
            "/etc/preshard/preshard.toml:24:2: unknown section [lgo]",
            "/etc/preshard/preshard.toml:25:2: commands is not supported by this version of preshard",
        ]
    );
}

#[test]
fn a_mistake_shows_its_line_with_a_caret_and_a_hint() {
    let errors = parse("[proxy]\nwrokers = 2\n\tworkers = \"many\"\n")
        .unwrap_err()
        .to_string();
    let expected = "\
/etc/preshard/preshard.toml:2:1: unknown key proxy.wrokers
  |
2 | wrokers = 2
  | ^^^^^^^
  = hint: did you mean workers?
/etc/preshard/preshard.toml:3:12: proxy.workers must be a whole number between 0 and 256, not string
  |
3 | \tworkers = \"many\"
  | \t          ^^^^^^
  = hint: write it without quotes";
    assert_eq!(errors, expected);
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let mistakes = told(parse("[proxy]\nworkers = \nlisten = [\"a\"\n"));
    assert!(
        mistakes[0].starts_with("/etc/preshard/preshard.toml:2:"),
        "{mistakes:?}"
    );
    let twice = told(parse("[proxy]\nworkers = 1\nworkers = 2\n"));
    assert!(
        twice[0].contains(":3:1: this is no TOML: duplicate key"),
        "{twice:?}"
    );
}

#[test]
fn the_environment_wins_over_the_file_and_is_checked_like_it() {
    let env = [
        ("PRESHARD__PROXY__WORKERS", "3"),
        ("PRESHARD__PROXY__LISTEN", "127.0.0.1:1, unix:/run/p.sock"),
        ("PRESHARD__TOPOLOGY__NODES", "x=h:1,y=h:2"),
        ("PRESHARD_CONFIG", "ignored"),
        ("PATH", "ignored"),
    ];
    let config = with_env(MINIMAL, &env).unwrap();
    assert_eq!(config.proxy.workers, 3);
    assert_eq!(config.proxy.listen.len(), 2);
    assert_eq!(config.topology.nodes[1].name, "y");

    let env = [
        ("PRESHARD__PROXY__WROKERS", "3"),
        ("PRESHARD__PROXY__PROXY_PROTOCOL", "on"),
        ("PRESHARD__PROXY__MAX_CLIENTS", "-1"),
    ];
    assert_eq!(
        told(with_env("", &env)),
        [
            "environment variable PRESHARD__PROXY__PROXY_PROTOCOL: proxy.proxy_protocol is not supported by this version of preshard",
            "environment variable PRESHARD__PROXY__WROKERS: it sets proxy.wrokers, which is no key",
            "environment variable PRESHARD__PROXY__MAX_CLIENTS: proxy.max_clients must be a whole number between 1 and 1000000",
        ]
    );
}

#[test]
fn what_later_versions_have_may_be_off_but_not_on() {
    let off = "[proxy]\nproxy_protocol = \"off\"\n[commands]\n";
    assert!(parse(off).is_ok());
    assert_eq!(
        told(parse("[proxy]\nproxy_protocol = true\n[nodes]\ntls = true\n")).len(),
        2
    );
}

#[test]
fn cluster_emulation_needs_an_address_that_leads_here() {
    let parsed = |lines: &str| parse(&format!("[proxy]\ncluster_emulation = true\n{lines}\n"));
    let config = parsed("").unwrap();
    assert!(config.proxy.cluster_emulation && config.proxy.advertise.is_none());
    let config = parsed("listen = \"0.0.0.0:1\"\nadvertise = \"Shop.example:6380\"").unwrap();
    assert_eq!(config.proxy.advertise.unwrap().to_string(), "shop.example:6380");
    for (lines, wrong) in [
        (
            "listen = \"0.0.0.0:6380\"",
            "0.0.0.0:6380 stands for every address",
        ),
        ("listen = [\"unix:/run/p\", \"[::]:6380\"]", "[::]:6380"),
        ("listen = \"unix:/run/p\"", "proxy.listen has none"),
        ("advertise = \"0.0.0.0:6380\"", "no client can connect to that"),
        ("advertise = \"unix:/run/p\"", "over TCP only"),
        ("advertise = \"h:0\"", "has no port"),
        ("advertise = \"h\"", "'h' has no port"),
    ] {
        let found = told(parsed(lines));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert!(found[0].contains(wrong), "{found:?}");
    }
    let off = parse("[proxy]\nadvertise = \"h:1\"\n").unwrap();
    assert!(off.warnings[0].contains("has no effect"), "{:?}", off.warnings);
    assert!(told(parse("[proxy]\ncluster_emulation = \"yes\"\n"))[0].contains("must be true or false"));
    assert!(
        with_env("", &[("PRESHARD__PROXY__CLUSTER_EMULATION", "true")])
            .unwrap()
            .proxy
            .cluster_emulation
    );
}

#[test]
fn listeners_are_distinct_and_admin_is_not_open() {
    let same = "[proxy]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:1\"\nhttp = \"off\"\n";
    assert_eq!(
        told(parse(same)),
        ["/etc/preshard/preshard.toml:4:10: proxy.listen and admin.listen both name 127.0.0.1:1"]
    );
    let open = "[admin]\nlisten = \"0.0.0.0:6381\"\n";
    assert!(told(parse(open))[0].contains("can be reached from other machines and has no password"));
    let hash = "5".repeat(64);
    assert!(parse(&format!("{open}password_sha256 = \"{hash}\"\n")).is_ok());
    let config = parse("[proxy]\nlisten = \"0.0.0.0:6380\"\n[admin]\nlisten = \"off\"\n").unwrap();
    assert_eq!((config.admin.listen, config.warnings.len()), (None, 1));
    assert!(told(parse("[proxy]\nlisten = []\n"))[0].contains("at least one"));
}

#[test]
fn passwords_come_from_files_beside_the_config_and_are_never_shown() {
    let folder = Folder::new("passwords");
    fs::write(folder.0.join("pw"), "hunter2\n").unwrap();
    fs::write(folder.0.join("empty"), "\n").unwrap();
    let file = folder.0.join("preshard.toml");
    fs::write(
        &file,
        "[proxy]\npassword_file = \"pw\"\n[nodes]\nusername = \"u\"\npassword_file = \"pw\"\n",
    )
    .unwrap();
    let config = Config::load(&file).unwrap();
    assert!(config.proxy.password.as_ref().unwrap().matches(b"hunter2"));
    assert_eq!(config.nodes.password.as_ref().unwrap().reveal(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));

    let wrong = "[proxy]\npassword_file = \"missing\"\n[admin]\npassword_file = \"empty\"\npassword_sha256 = \"abc\"\n\
                 [nodes]\nusername = \"u\"\n";
    fs::write(&file, wrong).unwrap();
    let errors = Config::load(&file).unwrap_err();
    assert_eq!(errors.0.len(), 5, "{errors}");
    assert!(errors.0[0].what.contains("missing: No such file"), "{errors}");
    assert!(errors.0[1].what.contains("first line is empty"), "{errors}");
}

#[test]
fn a_password_in_the_wrong_place_is_not_repeated() {
    let errors = parse("[proxy]\npassword = \"hunter2\"\n[nodes]\npassword = hunter2\n")
        .unwrap_err()
        .to_string();
    assert!(!errors.contains("hunter2"), "{errors}");
    let errors = parse("[proxy]\npassword = \"hunter2\"\npassword_sha256 = \"hunter2\"\n")
        .unwrap_err()
        .to_string();
    assert!(
        !errors.contains("hunter2") && errors.contains("password = <redacted>"),
        "{errors}"
    );
}

#[test]
fn a_missing_file_says_so() {
    let errors = Config::load(Path::new("/nonexistent/preshard.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        errors.starts_with("/nonexistent/preshard.toml: cannot read the config: No such file"),
        "{errors}"
    );
}

#[test]
fn layouts_that_no_node_could_hold_are_refused() {
    assert!(told(parse("[topology]\nshards = 4096\npinned = 12288\n"))[0].contains("between 0 and 12287"));
    assert!(parse("[topology]\nshards = 4096\npinned = 12287\n").is_ok());
}

proptest::proptest! {
    #[test]
    fn noise_in_a_config_never_panics(
        noise in "[\\PC\\t\\r\\n\"=\\[\\]#.]{0,40}", at in proptest::prelude::any::<proptest::sample::Index>()) {
        let lines: Vec<&str> = MINIMAL.split_inclusive('\n').collect();
        let (before, after) = lines.split_at(at.index(lines.len()));
        if let Err(errors) = parse(&format!("{}{noise}{}", before.concat(), after.concat())) {
            proptest::prop_assert!(!errors.to_string().is_empty());
        }
    }
}
