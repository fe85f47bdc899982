//! Running the program.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a run of the program left behind.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program with arguments. Its cache is a folder of its own.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilekiln"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env(
            "TILEKILN_CACHE_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
        )
        .env("RUST_BACKTRACE", "0");
    command
}

impl Run {
    pub fn of(mut command: Command) -> Self {
        Self::from(command.output().expect("the program starts"))
    }

    pub fn new(arguments: &[&str]) -> Self {
        Self::of(command(arguments))
    }

    /// Fails unless it ended with this exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// What was printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }
}

impl From<Output> for Run {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let run = Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(stderr).expect("UTF-8 on stderr"),
        };
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }
}

/// How long the program may take to say no. A line that is not refused any more may answer or serve for hours.
const REFUSAL: Duration = Duration::from_secs(60);

/// A line that is refused: soon, with that exit code, nothing on stdout, and all of these words on stderr.
#[track_caller]
pub fn refused(line: &str, code: i32, named: &[&str]) -> Run {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let mut command = command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let start = Instant::now();
    while child.try_wait().expect("its own child").is_none() {
        if start.elapsed() > REFUSAL {
            child.kill().expect("its own child");
            child.wait().expect("its own child");
            panic!("`{line}` is not refused within {REFUSAL:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let run = Run::from(child.wait_with_output().expect("it has ended")).ended(code);
    assert_eq!(run.stdout, "", "`{line}`: errors go to stderr");
    for part in named {
        assert!(
            run.stderr.contains(part),
            "`{line}` does not name {part}:\n{}",
            run.stderr
        );
    }
    run
}

/// Runs with environment variables.
pub fn run_with(arguments: &[&str], environment: &[(&str, &OsStr)]) -> Run {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    Run::of(command)
}

/// `tilekiln serve` on a free port. Dropping it kills it.
pub struct Serving {
    child: Child,
    /// Where it listens.
    pub url: String,
}

impl Serving {
    /// Starts it and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = command(&["serve", "--port", "0", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("UTF-8");
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let mut said = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
            panic!("{arguments:?} is not ready: {line}{said}");
        };
        Self {
            child,
            url: ready["url"].as_str().expect("a URL").to_string(),
        }
    }

    /// Asks it to end, as an administrator does, and waits for that.
    pub fn end(mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().expect("kill");
        assert!(asked.success());
        let status = self.child.wait().expect("it ends");
        let mut said = String::new();
        let _ = self.child.stderr.take().expect("piped").read_to_string(&mut said);
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // After `end` there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
