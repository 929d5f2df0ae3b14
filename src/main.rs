//! The `preshard` command: the arguments are read and everything done in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    preshard::cli::run()
}
