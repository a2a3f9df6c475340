//! Whether the agent works, as the orchestrator asks: `/healthz` (is the process alive, or should it be restarted?) and
//! `/readyz` (does it do its work now?).
//!
//! **In**: the binary's answers. **Out**: plain text with the reason. **Limits**: the answers must come without waiting;
//! a reason is cut at [`MAX_REASON_BYTES`].

use axum::http::StatusCode;

/// A reason longer than this many bytes is cut.
pub const MAX_REASON_BYTES: usize = 2048;

/// What the binary knows about itself. Both are called on request threads and must not block.
pub trait Health: Send + Sync {
    /// Whether the agent does its work: events attached, windows closing.
    ///
    /// # Errors
    /// What it is waiting for, in a sentence for a person.
    fn ready(&self) -> Result<(), String>;

    /// Whether the agent can do its work at all; an error here means that only a restart helps.
    ///
    /// # Errors
    /// What is broken, in a sentence for a person.
    fn live(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The status and the text of an answer: 200 and `ok`, or 503 and the reason.
#[must_use]
pub fn answer(result: Result<(), String>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(mut reason) => {
            reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
            reason.push('\n');
            (StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_why() {
        assert_eq!(answer(Ok(())), (StatusCode::OK, "ok\n".to_owned()));
        let (status, text) = answer(Err("no CPU is attached yet".to_owned()));
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "no CPU is attached yet\n");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let (_, text) = answer(Err("é".repeat(5000)));
        assert!(text.len() <= MAX_REASON_BYTES + 1);
        assert!(text.trim_end().chars().all(|c| c == 'é'));
    }
}
