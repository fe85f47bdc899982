//! `tilekiln run` and `tilekiln serve` as programs, and generation over the stand-in.

mod server_support;
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use server_support::{Bytes, Scripted, application};
use support::{Run, Serving, command, refused};
use tilekiln::cli::Failure;
use tilekiln::cli::run::{Figures, Generated, Generator, Seen};
use tilekiln::sample;
use tilekiln::schedule::{Refusal, Statistics};
use tilekiln::server::text::{Language, Part};

/// Command line, exit code, and what stderr has to name.
#[test]
fn what_cannot_be_is_named() {
    let table: &[(&str, i32, &[&str])] = &[
        ("serve -ctk turbo5", 2, &["-ctk", "`turbo5`", "turbo2, turbo3, turbo4"]),
        ("run -p x -ctv q8_1", 2, &["-ctv", "`q8_1`"]),
        ("serve -m T.gguf --spec-type mtp", 2, &["--mtp-head FILE"]),
        (
            "serve --draft-block-size 40 -md A.gguf",
            2,
            &["--draft-block-size 40", "2 to 32"],
        ),
        ("serve --temp -1", 2, &["--temp -1", "from 0"]),
        ("serve -n -5", 2, &["-n -5"]),
        ("serve --port 70000", 2, &["--port", "70000"]),
        ("serve --api-key= ", 2, &["--api-key", "empty"]),
        (
            "serve --device metal",
            2,
            &["--device", "metal", "host, cuda, hip, auto"],
        ),
        ("serve --what", 2, &["--what"]),
        ("serve --host 203.0.113.9 --port 0", 1, &["203.0.113.9", "--host"]),
        ("serve -m no/such.gguf --port 0", 1, &["no/such.gguf"]),
        ("run -m no/such.gguf -p x", 1, &["no/such.gguf"]),
        ("run -p x -f y", 2, &["--prompt", "--file"]),
        ("run -f no/such.txt", 1, &["no/such.txt"]),
        ("run --tokens 1,x", 2, &["--tokens", "x"]),
        ("run -i --json", 2, &["--interactive", "--json"]),
        ("run --no-template --system x", 2, &["--no-template", "--system"]),
        // stdin is empty here
        ("run", 2, &["prompt", "-p TEXT"]),
        // a note, then the error
        (
            "serve -m no/such.gguf --port 0 -fa off",
            1,
            &["-fa off: ", "no/such.gguf"],
        ),
        (
            "run -m no/such.gguf -p x --mtp-head no/head.gguf",
            1,
            &["--mtp-head no/head.gguf: used", "no/such.gguf"],
        ),
    ];
    for (line, code, named) in table {
        refused(line, *code, named);
    }
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let run = Run::new(&["serve", "--port", &port]).ended(1);
    assert!(
        run.stderr.contains(&port) && run.stderr.contains("--port (0 takes"),
        "{}",
        run.stderr
    );
}

const DEMO: &[&str] = &["-n", "6", "-c", "256", "--temp", "0", "--device", "host"];

fn demo(arguments: &[&str]) -> Run {
    Run::new(&[&["run"], DEMO, arguments].concat())
}

#[test]
fn text_goes_to_stdout_and_figures_to_stderr() {
    let text = demo(&["-p", "hello"]).ended(0);
    assert!(
        !text.stdout.trim().is_empty() && text.stdout.ends_with('\n'),
        "{:?}",
        text.stdout
    );
    for part in [
        "load",
        "compile",
        "prompt   ",
        "answer   ",
        "tok/s",
        "drafts   ",
        "by depth",
    ] {
        assert!(text.stderr.contains(part), "no {part}:\n{}", text.stderr);
    }
    let quiet = demo(&["-p", "hello", "-q"]).ended(0);
    assert_eq!(
        (quiet.stdout.as_str(), quiet.stderr.as_str()),
        (text.stdout.as_str(), "")
    );

    let json = demo(&["-p", "hello", "--json", "-q"]).ended(0).json();
    assert_eq!(json["text"].as_str().map(str::trim), Some(text.stdout.trim()));
    assert_eq!(json["finish"], "length");
    assert_eq!(json["tokens"].as_array().map(Vec::len), Some(6));
    assert_eq!(json["statistics"]["generated_tokens"], 6);
    assert!(
        json["statistics"]["prompt_tokens_per_second"].as_f64() > Some(0.0),
        "{json}"
    );

    let ids = demo(&["-p", "hello", "--ids", "-q"]).ended(0);
    let found: Vec<Value> = ids
        .stdout
        .split_whitespace()
        .map(|id| json!(id.parse::<u32>().expect("an id")))
        .collect();
    assert_eq!(json!(found), json["tokens"]);
}

#[test]
fn a_conversation_through_a_pipe() {
    let mut child = command(&[&["run", "-i"], DEMO].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(b"/stats\nhello\n\n/stats\n/reset\n/nonsense\nhello\n/exit\nnever read\n")
        .expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 2, "two answers: {stdout}\n{stderr}");
    assert_eq!(lines[0], lines[1], "after /reset it begins anew");
    for part in ["nothing was generated yet", "answer   6 tokens", "no /nonsense"] {
        assert!(stderr.contains(part), "no {part}:\n{stderr}");
    }
}

/// `tilekiln run | head -c 1`: a reader that has seen enough ends the answer.
#[test]
fn a_closed_pipe_is_no_failure() {
    let arguments = [
        "run",
        "-p",
        "hello",
        "-n",
        "200",
        "-c",
        "1024",
        "--device",
        "host",
        "--ignore-eos",
    ];
    let mut child = command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut first = [0];
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut first).expect("a letter");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("panicked") && !said.contains("roken pipe"), "{said}");
    assert!(!said.contains("answer   200 tokens"), "it went on for nobody:\n{said}");
}

/// Ctrl-C ends the answer, not the figures.
#[test]
fn an_interrupt_ends_the_answer() {
    let arguments = [
        "run",
        "-p",
        "hello",
        "-n",
        "900",
        "-c",
        "1024",
        "--device",
        "host",
        "--ignore-eos",
        "--json",
    ];
    let child = command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let id = child.id().to_string();
    let interrupt = std::thread::spawn(move || {
        // long enough for the demo model to be loaded, not for 900 tokens
        std::thread::sleep(Duration::from_secs(8));
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .expect("kill")
    });
    let output = child.wait_with_output().expect("it ends");
    assert!(
        interrupt.join().expect("no panic").success(),
        "it ran until the interrupt"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(130) {
        // A machine so slow that nothing was generated yet: then it ends the program.
        assert!(!said.contains("answer   "), "{said}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["finish"], "cancelled", "{json}");
    assert!(said.contains("answer   "), "{said}");
}

#[test]
fn serve_answers_until_it_is_told_to_end() {
    let serving = Serving::start(&["-c", "256", "-a", "me", "--device", "host", "-np", "2"]);
    let address = serving.url.strip_prefix("http://").expect("a URL");
    let mut socket = TcpStream::connect(address).expect("a connection");
    let body = json!({"prompt": "hello", "max_tokens": 2}).to_string();
    write!(
        socket,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).expect("UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a reply");
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&body["model"], &body["usage"]["completion_tokens"]),
        (&json!("me"), &json!(2)),
        "{body}"
    );
    serving.end();
}

fn generator(service: &Arc<Scripted>, max_tokens: Option<usize>, ignore_eos: bool) -> Generator {
    Generator {
        application: application(service.clone()),
        sampling: sample::Settings::default(),
        max_tokens,
        ignore_eos,
    }
}

async fn generate(generator: &Generator, prompt: &str) -> (Result<Generated, Failure>, Vec<Seen>) {
    let mut seen = Vec::new();
    let prompt = Bytes.encode(prompt, false);
    let generated = generator
        .generate(&prompt, true, std::future::pending(), |more| {
            seen.push(more);
            true
        })
        .await;
    (generated, seen)
}

#[tokio::test]
async fn what_is_seen_is_what_is_returned() {
    let service = Arc::new(Scripted::new());
    let (generated, seen) = generate(
        &generator(&service, None, false),
        "say:<think>hm</think>zwölf<call>f {}</call>",
    )
    .await;
    let generated = generated.expect("an answer");
    assert_eq!(
        (generated.text.as_str(), generated.reasoning.as_str()),
        ("zwölf[call f {}]", "hm")
    );
    assert_eq!(generated.finish, "stop");
    assert_eq!((generated.statistics.drafted, generated.statistics.accepted), (6, 4));
    let tokens: Vec<u32> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Token(token) => Some(*token),
            _ => None,
        })
        .collect();
    assert_eq!(tokens, generated.tokens);
    assert!(matches!(seen[0], Seen::Prompt { done, total } if done == total));
    let text: String = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Part(Part::Text(text)) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "zwölf");

    let (limited, _) = generate(&generator(&service, Some(2), false), "say:abc").await;
    let limited = limited.expect("an answer");
    assert_eq!((limited.text.as_str(), limited.finish), ("ab", "length"));
    let (longer, _) = generate(&generator(&service, Some(6), true), "say:abc").await;
    assert_eq!(longer.expect("an answer").text, "abc a", "it goes on after the end");
}

#[tokio::test]
async fn an_answer_can_be_ended() {
    let service = Arc::new(Scripted {
        delay: Duration::from_millis(2),
        ..Scripted::new()
    });
    let generator = generator(&service, None, false);
    let prompt = Bytes.encode("loop:abc", false);
    let mut count = 0;
    let generated = generator.generate(&prompt, true, std::future::pending(), |seen| {
        count += usize::from(matches!(seen, Seen::Token(_)));
        count < 5
    });
    let generated = generated.await.expect("an answer");
    assert_eq!((generated.text.as_str(), generated.finish), ("abcab", "cancelled"));
    assert_eq!(generated.statistics.generated_tokens, 5);

    let after = tokio::time::sleep(Duration::from_millis(100));
    let generated = generator
        .generate(&prompt, true, after, |_| true)
        .await
        .expect("an answer");
    assert_eq!(generated.finish, "cancelled");
    assert!("abc".repeat(100).starts_with(&generated.text), "{}", generated.text);
    let start = std::time::Instant::now();
    while service.cancelled.load(Ordering::SeqCst) < 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "the service goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn generation_that_fails() {
    let service = Arc::new(Scripted::new());
    for (prompt, fragment) in [("fail:x", "out of luck"), ("vanish:x", "went away")] {
        let (generated, _) = generate(&generator(&service, None, false), prompt).await;
        let Err(Failure::Failed(reason)) = generated else {
            panic!("no failure: {generated:?}")
        };
        assert!(reason.contains(fragment), "{reason}");
    }
    let refusal = Refusal::TooLong { prompt: 9, context: 8 };
    let service = Arc::new(Scripted {
        refusal: Some(refusal),
        ..Scripted::new()
    });
    let (generated, _) = generate(&generator(&service, None, false), "x").await;
    assert!(matches!(generated, Err(Failure::Usage(reason)) if reason.contains("larger context (-c)")));
}

#[test]
fn figures_follow_from_statistics() {
    let statistics = Statistics {
        prompt_tokens: 110,
        reused_tokens: 10,
        prompt_time: Duration::from_millis(500),
        generated_tokens: 41,
        decode_time: Duration::from_secs(2),
        rounds: 16,
        drafted: 32,
        accepted: 24,
        drafted_at: vec![16, 16, 0],
        accepted_at: vec![14, 10],
    };
    let figures = Figures::from(&statistics);
    assert_eq!(
        (figures.prompt_tokens_per_second, figures.decode_tokens_per_second),
        (200.0, 20.0)
    );
    assert_eq!((figures.tokens_per_round, figures.acceptance), (2.5, Some(0.75)));
    assert_eq!(figures.acceptance_at, [Some(0.875), Some(0.625), None]);
    let lines = figures.lines();
    for part in [
        "110 tokens (10 in the cache), 0.50 s, 200.0 tok/s",
        "41 tokens, 2.00 s, 20.0 tok/s",
        "24 of 32 accepted (75.0 %)",
        "87.5 %, 62.5 %, -",
    ] {
        assert!(lines.contains(part), "no {part}:\n{lines}");
    }
    let none = Figures::from(&Statistics::default());
    assert!(
        none.acceptance.is_none() && !none.lines().contains("drafts"),
        "{}",
        none.lines()
    );
}
