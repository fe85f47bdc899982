//! `tilekiln`: see `tilekiln --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tilekiln::cli::run()
}
