//! Users as people write them, and what is told when they are wrong.

use std::path::Path;

use crate::acl::Rights;
use crate::command;
use crate::config::Config;

const HASH: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let parsed = Config::parse(Path::new("/etc/preshard/p.toml"), text, std::iter::empty());
    parsed.map_err(|errors| {
        let told = errors.0.into_iter();
        told.map(|error| format!("{} {} [{}]", error.place, error.what, error.hint))
            .collect()
    })
}

fn may(config: &Config, user: usize, name: &[u8]) -> bool {
    let spec = command::lookup(name).unwrap();
    config.users[user].rules.commands().has(spec.id)
}

#[test]
fn a_user_is_read_with_all_its_fields() {
    let text = format!(
        "[[user]]\nname = \"shop\"\npassword_sha256 = [\"{HASH}\", \"#{HASH}\"]\nrights = [\"read\", \"write\"]\nkeys = [\"shop:*\"]\n\
         commands = [\"-@dangerous\", \"+info\"]\n\
         [[user]]\nname = \"ops\"\nnopass = true\nenabled = false\nrights = \"admin\"\n"
    );
    let config = parse(&text).unwrap();
    let [shop, ops] = &config.users[..] else {
        panic!("{:?}", config.users)
    };
    assert_eq!((shop.name.as_str(), shop.passwords.len()), ("shop", 2));
    assert_eq!(shop.rules.keys_text(), "~shop:*");
    assert_eq!(shop.rules.channels_text(), "", "no channels without naming them");
    assert!(may(&config, 0, b"set") && may(&config, 0, b"info"));
    assert!(!may(&config, 0, b"keys") && !may(&config, 0, b"eval"));
    assert!(ops.nopass && !ops.enabled && ops.rules.rights() == Rights::ADMIN);
    assert_eq!(ops.rules.keys_text(), "~*");
    assert_eq!(ops.rules.channels_text(), "&*");
    assert!(!config.admin_is_guarded() && config.data_is_guarded());
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = format!(
        "[proxy]\npassword_sha256 = \"{HASH}\"\n\
         [[user]]\nname = \"a b\"\n\
         [[user]]\nname = \"a\"\nnopass = 1\nrihgts = []\n\
         [[user]]\nname = \"a\"\nnopass = true\npassword_sha256 = \"xyz\"\nrights = [\"raed\"]\n\
         [[user]]\nname = \"default\"\npassword_file = \"nothing\"\ncommands = [\"+gte\", \"@all\", \"+@strin\", \"-config|set\"]\nkeys = [\"~a\", \"\"]\nchannels = 5\n"
    );
    let told = parse(&text).unwrap_err();
    let expected = [
        "p.toml:4:8 'a b' is no name",
        "p.toml:6:8 user 'a' has no password",
        "p.toml:6:8 user 'a' may do nothing",
        "p.toml:7:10 user.nopass must be true or false",
        "p.toml:8:1 unknown key user.rihgts [did you mean rights?]",
        "p.toml:10:8 user name 'a' is used twice",
        "p.toml:11:10 user 'a' has a password and takes any",
        "p.toml:12:19 password_sha256 of user 'a' must be 64",
        "p.toml:13:11 'raed' is no right [did you mean read?]",
        "p.toml:15:8 the user 'default' has a [[user]] table",
        "p.toml:16:17 password file /etc/preshard/nothing",
        "p.toml:17:13 '+gte' is no ACL word about commands [did you mean get?]",
        "p.toml:17:21 '@all' is no ACL word",
        "p.toml:17:29 '+@strin' is no ACL word about commands [did you mean string?]",
        "p.toml:18:9 a pattern of user.keys begins with the mark",
        "p.toml:18:15 a pattern of user.keys is empty",
        "p.toml:19:12 user.channels must be a text or a list of texts",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told}\n{expected}");
    }
    assert!(told.iter().all(|line| !line.contains(HASH)));
}

#[test]
fn an_administrator_among_the_users_is_password_enough_for_the_admin_port() {
    let open = "[admin]\nlisten = \"0.0.0.0:6381\"\n";
    let user = |rights: &str| {
        format!("[[user]]\nname = \"ops\"\npassword_sha256 = \"{HASH}\"\nrights = [\"{rights}\"]\n")
    };
    assert!(parse(open).unwrap_err()[0].contains("has no password"));
    assert!(parse(&format!("{open}{}", user("write"))).is_err());
    assert!(parse(&format!("{open}{}", user("monitor"))).is_ok());
    let anybody = "[[user]]\nname = \"any\"\nnopass = true\nrights = [\"admin\"]\n";
    assert!(parse(&format!("{open}{}{anybody}", user("admin"))).is_err());
}

#[test]
fn who_is_limited_to_keys_and_runs_scripts_is_warned_of() {
    let text = |commands: &str| {
        format!(
            "[[user]]\nname = \"a\"\nnopass = true\nrights = [\"read\", \"write\"]\nkeys = [\"a\"]\n{commands}"
        )
    };
    assert!(parse(&text("")).unwrap().warnings.is_empty());
    let warnings = parse(&text("commands = [\"+eval\"]")).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("may run scripts"),
        "{warnings:?}"
    );
}
