//! Handing driver objects back, which must not happen while a graph is recorded.
//!
//! Unloading a module first waits for the stream, and waiting for a stream that is recording spoils the
//! recording. What is dropped meanwhile is kept until the recording has ended.

use std::sync::{Mutex, PoisonError};

/// Objects that wait for the end of a recording.
pub(crate) struct Retired<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    recording: bool,
    waiting: Vec<T>,
}

impl<T> Retired<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                recording: false,
                waiting: Vec::new(),
            }),
        }
    }

    /// Releases an object now, or keeps it while a graph is recorded. `release` runs under the lock, so that
    /// no recording begins meanwhile.
    pub(crate) fn retire(&self, object: T, release: impl FnOnce(T)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.recording {
            state.waiting.push(object);
        } else {
            release(object);
        }
    }

    /// A recording begins.
    pub(crate) fn begin(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).recording = true;
    }

    /// A recording has ended; gives back what waited for it.
    pub(crate) fn end(&self) -> Vec<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.recording = false;
        std::mem::take(&mut state.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_end_of_a_recording() {
        let retired = Retired::new();
        let released = Mutex::new(Vec::new());
        let release = |object: u32| released.lock().expect("one thread").push(object);
        retired.retire(1, release);
        retired.begin();
        retired.retire(2, release);
        assert_eq!(*released.lock().expect("one thread"), [1]);
        assert_eq!(retired.end(), [2]);
        retired.retire(3, release);
        assert_eq!(*released.lock().expect("one thread"), [1, 3]);
        assert!(retired.end().is_empty());
    }
}
