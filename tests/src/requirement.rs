//! Tests that need something this machine may lack.
//!
//! Such a test says why it did not run and returns. Where the thing must be there (continuous integration, a machine
//! with the card), `TILEKILN_REQUIRE` names it and the same test fails instead:
//! `TILEKILN_REQUIRE=nvrtc,shared cargo test`.

use std::fmt::Display;
use std::io::Write;

/// Name of the environment variable that lists what must be available, separated by commas.
pub const REQUIRE_VARIABLE: &str = "TILEKILN_REQUIRE";

/// Unwraps something a test needs, or skips the test.
///
/// `name` is one of `nvrtc`, `hiprtc`, `cuda`, `clang`, `cc`, `shared`, `openai`. The caller returns on `None`:
///
/// ```
/// # use tilekiln_tests::{golden, requirement::require};
/// let Some(folder) = require("shared", golden::shared_folder()) else { return };
/// # let _ = folder;
/// ```
///
/// # Panics
/// When the thing is missing and `TILEKILN_REQUIRE` lists its name.
pub fn require<T, E: Display>(name: &str, found: Result<T, E>) -> Option<T> {
    match found {
        Ok(value) => Some(value),
        Err(reason) => {
            skip(name, reason);
            None
        }
    }
}

/// Prints `skipped: <reason>` on stderr.
///
/// # Panics
/// When `TILEKILN_REQUIRE` lists `name`.
pub fn skip(name: &str, reason: impl Display) {
    let required = std::env::var(REQUIRE_VARIABLE).unwrap_or_default();
    assert!(
        !lists(&required, name),
        "{REQUIRE_VARIABLE} lists `{name}`, but it cannot be used: {reason}"
    );
    // Past the test harness, which would swallow what `eprintln!` says in a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

fn lists(required: &str, name: &str) -> bool {
    required.split(',').any(|entry| entry.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_listed_as_a_whole_entry() {
        let table = [
            ("", false),
            ("cuda", true),
            ("nvrtc, cuda ,clang", true),
            ("cuda13", false),
            ("nvrtc;cuda", false),
        ];
        for (required, expected) in table {
            assert_eq!(lists(required, "cuda"), expected, "{required:?}");
        }
    }

    #[test]
    fn what_is_there_is_passed_on() {
        assert_eq!(require("shared", Ok::<_, String>(7)), Some(7));
    }
}
