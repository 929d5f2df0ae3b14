//! The pages that are made out of the table of keys: `docs/CONFIGURATION.md` and `config/preshard.toml`.
//!
//! A test compares them with the files; `PRESHARD_BLESS=1 cargo test` writes them anew.

use super::keys::{KEYS, Key, Kind, NODES_COST, NODES_WHAT, SECTIONS};
use super::users;
use std::fmt::Write as _;

/// Columns of a comment in the sample file.
const WIDTH: usize = 110;

const PAGE_HEAD: &str = "\
# Configuration

<!-- Made out of src/config/keys.rs: change it there, then run PRESHARD_BLESS=1 cargo test. -->

One TOML file, `preshard serve --config FILE`. [config/preshard.toml](../config/preshard.toml) has every key with its
default. `preshard check --config FILE` tells every mistake at once, each with its line, and ends with status 2 if there
is one; unknown keys are mistakes.

* The value of a key is, in this order: the environment variable `PRESHARD__SECTION__KEY` (`PRESHARD__PROXY__WORKERS=2`),
  the file, the default. Lists in the environment are separated by commas; `PRESHARD__TOPOLOGY__NODES` replaces the whole
  list of nodes: `redis-1=10.0.0.1:6379,redis-2=10.0.0.2:6379`. A variable that begins with `PRESHARD__` and names no
  key is a mistake too.
* Sizes are whole numbers with `B`, `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB`; durations with `ms`, `s`, `m` or `h`.
* Relative paths start at the folder of the config file.
* `preshard flush` has a file of its own: [config/flush.toml](../config/flush.toml).
* A running proxy reads the file again at SIGHUP or `PRESHARD CONFIG RELOAD`, and says which keys are in force and which wait
  for a restart; the column `reload` tells them apart. A file that is wrong changes nothing. [OPERATIONS.md](OPERATIONS.md)
* Passwords stand in files of their own (first line), so that the config can be shown. They are never printed.
* `[topology]` seeds the first map when the store is empty. Afterwards shards and nodes belong to the topology
  (`PRESHARD SHARD MOVE`, `PRESHARD NODE ADD`); changing these keys changes nothing.
";

const FILE_HEAD: &str = "\
# preshard: every key with its default, what it does and what it costs.
# Made out of src/config/keys.rs: change it there, then run PRESHARD_BLESS=1 cargo test.
#
# PRESHARD__SECTION__KEY in the environment wins over this file. Relative paths start at this file's folder.
# Sizes: B, KiB, MiB, GiB, kB, MB, GB. Durations: ms, s, m, h.
";

/// The text of `docs/CONFIGURATION.md`.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(PAGE_HEAD);
    for (section, what) in SECTIONS {
        push(&mut page, &format!("\n## [{section}]\n\n{what}\n\n"));
        push(
            &mut page,
            "| key | values | default | reload | what it does | what it costs |\n|---|---|---|---|---|---|\n",
        );
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let default = key.default.map_or_else(
                || "unset".to_owned(),
                |text| format!("`{}`", literal(key.kind, text)),
            );
            push(
                &mut page,
                &format!(
                    "| `{}` | {} | {default} | {} | {} | {} |\n",
                    key.name(),
                    key.kind.describe(),
                    if key.is_reloaded() { "yes" } else { "restart" },
                    key.what,
                    key.cost
                ),
            );
        }
        if *section == "topology" {
            push(
                &mut page,
                &format!(
                    "| `[[topology.nodes]]` | tables of `name` and `address` | none | restart | {NODES_WHAT} | {NODES_COST} |\n"
                ),
            );
        }
    }
    push(&mut page, &format!("\n## [[user]]\n\n{}\n\n", users::WHAT));
    push(
        &mut page,
        "| key | values | default | reload | what it does | what it costs |\n|---|---|---|---|---|---|\n",
    );
    for field in users::FIELDS {
        let (name, values) = (field.name, field.describe());
        let row = format!(
            "| `{name}` | {values} | {} | yes | {} | {} |\n",
            field.default,
            field.what.replace('|', "\\|"),
            field.cost
        );
        push(&mut page, &row);
    }
    page
}

/// The text of `config/preshard.toml`.
#[must_use]
pub fn sample_file() -> String {
    let mut file = String::from(FILE_HEAD);
    for (section, what) in SECTIONS {
        push(&mut file, "\n");
        push_comment(&mut file, what);
        push(&mut file, &format!("[{section}]\n"));
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            push(&mut file, "\n");
            push_comment(&mut file, key.what);
            let reload = if key.is_reloaded() {
                ""
            } else {
                " Changed by a restart only."
            };
            push_comment(&mut file, &format!("Values: {}.{reload}", key.kind.describe()));
            push_comment(&mut file, &format!("Cost: {}", key.cost));
            push(&mut file, &setting(key));
        }
        if *section == "topology" {
            push(&mut file, "\n");
            push_comment(&mut file, NODES_WHAT);
            push_comment(&mut file, &format!("Cost: {NODES_COST}"));
            for number in 1..=2 {
                push(
                    &mut file,
                    &format!(
                        "[[topology.nodes]]\nname = \"redis-{number}\"\naddress = \"127.0.0.1:700{number}\"\n"
                    ),
                );
            }
        }
    }
    push(&mut file, "\n");
    push_comment(&mut file, users::WHAT);
    push(&mut file, "# [[user]]\n");
    for field in users::FIELDS {
        push(&mut file, "#\n");
        push_comment(&mut file, field.what);
        push_comment(&mut file, &format!("Values: {}.", field.describe()));
        push_comment(&mut file, &format!("Cost: {}", field.cost));
        push(&mut file, &format!("# {} = {}\n", field.name, field.example));
    }
    file
}

fn setting(key: &Key) -> String {
    match key.default {
        Some(text) => format!("{} = {}\n", key.name(), literal(key.kind, text)),
        None => format!("# {} = {}\n", key.name(), literal(key.kind, key.example)),
    }
}

fn literal(kind: Kind, text: &str) -> String {
    let number = matches!(kind, Kind::Count(..) | Kind::Switch) || text == "0";
    if number {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    }
}

fn push(page: &mut String, text: &str) {
    page.push_str(text);
}

fn push_comment(file: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            // Writing to a string does not fail.
            let _ = writeln!(file, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(file, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Compares a made page with the file in the repository, or writes it when asked to.
    fn assert_current(path: &str, made: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("PRESHARD_BLESS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, made).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == made,
            "{path} is not what src/config/keys.rs makes: run PRESHARD_BLESS=1 cargo test"
        );
    }

    #[test]
    fn the_configuration_page_is_current() {
        assert_current("docs/CONFIGURATION.md", &reference_page());
    }

    #[test]
    fn the_sample_file_is_current_and_mentions_every_key() {
        let made = sample_file();
        assert_current("config/preshard.toml", &made);
        for key in KEYS {
            let line = format!("{} = ", key.name());
            assert!(
                made.lines()
                    .any(|found| found.trim_start_matches("# ").starts_with(&line)),
                "{}",
                key.path
            );
        }
    }
}
