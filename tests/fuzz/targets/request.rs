//! Any bytes as the body of every kind of HTTP request: a request, or a refusal that says why.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use tilekiln::server::request::{Invalid, chat, completion, detokenize, template, tokenize};

fn says_why<T: Debug>(result: Result<T, Invalid>) -> Option<T> {
    result
        .inspect_err(|invalid| {
            assert!(!invalid.message.is_empty() && !invalid.code.is_empty(), "{invalid:?}");
            // a body must not come back whole in its own refusal
            assert!(invalid.message.len() < 2000, "{invalid:?}");
        })
        .ok()
}

fuzz_target!(|body: &[u8]| {
    if let Some(chat) = says_why(chat(body)) {
        assert!(!chat.messages.is_empty());
    }
    says_why(template(body));
    says_why(tokenize(body));
    says_why(detokenize(body));
    if let Some(completion) = says_why(completion(body)) {
        assert!(!completion.prompts.is_empty());
    }
});
