//! What an answer means: taken, try again, or never again.
//!
//! **In**: a server's status, headers and words (not trusted). **Out**: [`Outcome`]. **Limits**: messages are cut at
//! [`MAX_MESSAGE_CHARS`] and carry no control characters; a server may ask for a wait of at most [`MAX_SERVER_WAIT`].

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The longest message that is kept of an answer.
pub(crate) const MAX_MESSAGE_CHARS: usize = 300;

/// The longest wait that a server may ask for.
pub(crate) const MAX_SERVER_WAIT: Duration = Duration::from_secs(600);

/// What Pyroscope writes when a tenant sends too much, whatever status it gives.
const RATE_LIMIT_WORDS: &str = "resource_exhausted";

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server has it.
    Accepted {
        /// So many profiles of it were thrown away.
        rejected_profiles: u64,
        /// Why, or a warning; empty where there is nothing to say.
        message: String,
    },
    /// It may work later.
    Retry {
        /// Not before.
        after: Option<Duration>,
        /// What went wrong.
        message: String,
    },
    /// It will never work.
    Refused {
        /// Why.
        message: String,
    },
}

/// An attempt's outcome and the code it is counted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: String,
    pub(crate) outcome: Outcome,
}

impl Answer {
    pub(crate) fn retry(code: &str, message: &str) -> Self {
        let message = match hint(message) {
            Some(hint) => format!("{} ({hint})", shown(message)),
            None => shown(message),
        };
        Self { code: code.into(), outcome: Outcome::Retry { after: None, message } }
    }

    pub(crate) fn refused(code: &str, message: &str) -> Self {
        Self { code: code.into(), outcome: Outcome::Refused { message: shown(message) } }
    }

    pub(crate) fn accepted(code: &str, rejected_profiles: i64, message: &str) -> Self {
        let rejected_profiles = u64::try_from(rejected_profiles).unwrap_or(0);
        Self { code: code.into(), outcome: Outcome::Accepted { rejected_profiles, message: shown(message) } }
    }
}

/// What a gRPC status that is not OK means.
pub(crate) fn of_grpc(status: &Status) -> Answer {
    let code = status.code();
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).map(|d| d.min(MAX_SERVER_WAIT));
    let again = match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // The server says when it recovers, or it does not recover.
        Code::ResourceExhausted => asked.is_some(),
        Code::Unknown => status.message().contains(RATE_LIMIT_WORDS),
        _ => false,
    };
    let name = code_name(code);
    let message = shown(&format!("{name}: {}", status.message()));
    let outcome = if again { Outcome::Retry { after: asked, message } } else { Outcome::Refused { message } };
    Answer { code: name.into(), outcome }
}

/// What an HTTP status that is not a success means.
pub(crate) fn of_http(status: u16, retry_after: Option<&str>, body: &str, now: SystemTime) -> Answer {
    let again = matches!(status, 429 | 502 | 503 | 504) || (status == 500 && body.contains(RATE_LIMIT_WORDS));
    let message = shown(&format!("HTTP {status}: {body}"));
    let outcome = if again {
        Outcome::Retry { after: retry_after.and_then(|text| wait(text, now)), message }
    } else {
        Outcome::Refused { message }
    };
    Answer { code: status.to_string(), outcome }
}

/// `Retry-After`: seconds or a date.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(MAX_SERVER_WAIT))
}

/// What the usual mistakes look like from here, and what to look at.
fn hint(message: &str) -> Option<&'static str> {
    [
        ("http2 error", "is this a gRPC port? OTLP over HTTP is usually on 4318"),
        ("received unexpected message", "is this an HTTP port? gRPC is usually on 4317"),
        ("invalid HTTP version", "is this an HTTP port? gRPC is usually on 4317"),
        ("InvalidContentType", "this port does not speak TLS: http instead of https?"),
        ("UnknownIssuer", "is the authority's certificate given?"),
    ]
    .into_iter()
    .find_map(|(words, hint)| message.contains(words).then_some(hint))
}

/// A server's or a library's words, fit for a log line.
pub(crate) fn shown(text: &str) -> String {
    text.trim().chars().take(MAX_MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    const DEEPEST: usize = 8;
    let mut out = error.to_string();
    let mut next = error.source();
    for _ in 0..DEEPEST {
        let Some(cause) = next else { break };
        let text = cause.to_string();
        // Libraries repeat their causes' words.
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

/// gRPC's own name of a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tonic_types::ErrorDetails;

    use super::*;

    fn again(answer: &Answer) -> Option<Option<Duration>> {
        match answer.outcome {
            Outcome::Retry { after, .. } => Some(after),
            _ => None,
        }
    }

    #[test]
    fn grpc_codes_as_the_specification_says() {
        for code in 1..=16 {
            let want = [1, 4, 10, 11, 14, 15].contains(&code);
            let answer = of_grpc(&Status::new(Code::from_i32(code), "x"));
            assert_eq!(again(&answer).is_some(), want, "{answer:?}");
        }
        let seconds = |s| ErrorDetails::with_retry_info(Some(Duration::from_secs(s)));
        let asked = |s| again(&of_grpc(&Status::with_error_details(Code::ResourceExhausted, "later", seconds(s))));
        assert_eq!(asked(7), Some(Some(Duration::from_secs(7))));
        assert_eq!(asked(1_000_000), Some(Some(MAX_SERVER_WAIT)));
    }

    #[test]
    fn http_codes_as_the_specification_says() {
        for status in 300..600 {
            let answer = of_http(status, None, "x", UNIX_EPOCH);
            assert_eq!(again(&answer).is_some(), [429, 502, 503, 504].contains(&status), "{answer:?}");
        }
        let asked = |text: &str| again(&of_http(503, Some(text), "", UNIX_EPOCH + Duration::from_secs(60)));
        assert_eq!(asked("12"), Some(Some(Duration::from_secs(12))));
        assert_eq!(asked("Thu, 01 Jan 1970 00:01:30 GMT"), Some(Some(Duration::from_secs(30))));
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:30 GMT"), Some(Some(Duration::ZERO)), "past");
        assert_eq!(asked("99999999999"), Some(Some(MAX_SERVER_WAIT)));
        assert_eq!(asked("soon"), Some(None));
    }

    #[test]
    fn a_rate_limit_is_known_by_its_words() {
        let words = "push: resource_exhausted: rate limit of 4 MiB exceeded";
        assert!(again(&of_grpc(&Status::unknown(words))).is_some());
        assert!(again(&of_http(500, None, words, UNIX_EPOCH)).is_some());
    }

    #[test]
    fn words_fit_a_line() {
        let answer = of_http(400, None, &format!("a\nb\x1b{}", "x".repeat(5000)), UNIX_EPOCH);
        let Outcome::Refused { message } = answer.outcome else { panic!() };
        assert!(message.starts_with("HTTP 400: a b ") && message.chars().count() == MAX_MESSAGE_CHARS, "{message}");
    }
}
