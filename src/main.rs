//! The `preshard` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let path = std::env::args().nth(3).unwrap_or_default();
    let config = match preshard::config::Config::load(std::path::Path::new(&path)) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    let _guard = preshard::logging::init(&Default::default());
    match preshard::proxy::serve(config, |l| println!("{l}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_status())
        }
    }
}
