//! The examples as somebody runs them, with the libraries that `setup.sh` installs below `target/clients`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kit::{count, pending, prepare, sum};
use super::postgres::Postgres;
use crate::clients::run;
use crate::harness::small;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> PathBuf {
    root().join("target/clients/python/bin/python")
}

#[test]
fn the_python_flusher_counts_each_increment_once() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let sql = "INSERT INTO event AS e (id, n) SELECT member, delta FROM delta ON CONFLICT (id) DO UPDATE SET n = e.n + EXCLUDED.n";
    let mut counted = 0;
    for protocol in ["2", "3"] {
        counted += count(&mut client, 0..60, 7);
        let said = run(Command::new(python())
            .arg(root().join("examples/flush.py"))
            .arg(format!("redis://{}?protocol={protocol}", proxy.data))
            .args([&postgres.address(), "events", sql, "--once"]));
        assert!(said.contains("events: "), "{said}");
        assert_eq!((sum(&postgres), pending(&mut client)), (counted, 0));
    }
    assert!(postgres.number("SELECT count(*) FROM preshard_flush") > 4);
}

#[test]
fn the_example_application_says_what_happened() {
    let said = run(Command::new(python())
        .arg(root().join("examples/app/run.py"))
        .env("PRESHARD", env!("CARGO_BIN_EXE_preshard")));
    for sentence in [
        "counted: 623 views of 3 pages",
        "in Postgres: {'about': 120, 'home': 500, 'jobs': 3}",
        "cyd's feed, page 1: bob:8 ada:7",
        "cyd's feed, page 3: ada:4",
        "the temporary folder is gone",
    ] {
        assert!(said.contains(sentence), "'{sentence}' is missing:\n{said}");
    }
}
