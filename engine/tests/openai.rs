//! OpenAI's Python client against the server.

mod server_support;
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use server_support::{Listening, Scripted, application};
use support::Serving;
use tilekiln::server::{Application, Server, Settings};
use tilekiln_tests::requirement::require;

/// Environment variable that names the Python to use.
const PYTHON_VARIABLE: &str = "TILEKILN_PYTHON";

/// A Python that has the package `openai`.
fn python() -> Result<String, String> {
    let python = std::env::var(PYTHON_VARIABLE).unwrap_or_else(|_| "python3".into());
    let output = Command::new(&python)
        .args(["-c", "import openai"])
        .output()
        .map_err(|error| format!("{python} does not start ({error}); {PYTHON_VARIABLE} names another Python"))?;
    if output.status.success() {
        Ok(python)
    } else {
        Err(format!(
            "{python} has no package `openai`; install it with pip, or name a Python that has it in {PYTHON_VARIABLE}"
        ))
    }
}

/// Runs the client's script against a server.
fn client(python: &str, url: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(format!("{url}/v1"))
        .args(arguments)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("Python starts");
    let (said, failed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{failed}");
    let checks: usize = said
        .trim()
        .strip_prefix("checked ")
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no count of checks: {said}"));
    assert!(checks > 50, "{said}");
}

/// The client against an application.
fn talks_to(application: Application, arguments: &[&str]) {
    let Some(python) = require("openai", python()) else {
        return;
    };
    let server = Server::new(Settings {
        api_keys: vec!["sesame".into()],
        ..Settings::default()
    });
    let model = application.model.clone();
    server.ready(application);
    let listening = Listening::new(server);
    let arguments: Vec<&str> = [model.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    client(&python, &format!("http://{}", listening.address), &arguments);
}

#[test]
fn the_client_talks_to_the_stand_in() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(1),
        ..Scripted::new()
    });
    let arguments = [
        "48",
        "say:Übermorgen, the 3rd, we read it again.",
        "say:<call>add {\"a\": 1, \"b\": 2}</call>",
    ];
    talks_to(application(service.clone()), &arguments);
    assert_eq!(
        service.running.load(std::sync::atomic::Ordering::SeqCst),
        0,
        "what the client left is cancelled"
    );
}

/// The program itself, with the demo model and its assistant: two slots, more clients than slots.
#[test]
fn the_client_talks_to_the_program() {
    let Some(python) = require("openai", python()) else {
        return;
    };
    let serving = Serving::start(&[
        "-np",
        "2",
        "-c",
        "4096",
        "--api-key",
        "sesame",
        "-a",
        "demo",
        "--device",
        "host",
    ]);
    client(&python, &serving.url, &["demo", "8", "hello"]);
    serving.end();
}
