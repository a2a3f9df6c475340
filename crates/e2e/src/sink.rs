//! A small receiver of OTLP over HTTP that keeps every request as it was sent, byte for byte, and answers what a test
//! wants. (The Collector re-encodes what it gets; conformance is judged on what we send.)

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesPartialSuccess, ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use prost::Message as _;

/// The largest body that is taken, unpacked.
const MAX_BODY: u64 = 64 << 20;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its path.
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, unpacked.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as what it should be.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn profiles(&self) -> Result<ExportProfilesServiceRequest> {
        Ok(ExportProfilesServiceRequest::decode(self.body.as_slice())?)
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// All was taken.
    Accept,
    /// So many samples were rejected.
    Reject(i64),
    /// Another status; with seconds after which to try again, if any.
    Status(u16, Option<u32>),
}

#[derive(Default)]
struct Shared {
    requests: Vec<Request>,
    answers: Vec<Answer>,
}

/// The receiver.
pub struct Sink {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
}

impl Sink {
    /// Starts one that gives `answers` in order, and accepts everything after.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(answers: impl IntoIterator<Item = Answer>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let mut answers: Vec<Answer> = answers.into_iter().collect();
        answers.reverse();
        let shared = Arc::new(Mutex::new(Shared { requests: Vec::new(), answers }));
        let stop = Arc::new(AtomicBool::new(false));
        let (for_thread, stopped) = (shared.clone(), stop.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(connection), shared) = (connection, for_thread.clone()) else { continue };
                std::thread::spawn(move || serve(&connection, &shared));
            }
        });
        Ok(Self { port, shared, stop })
    }

    /// Where OTLP goes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(connection: &TcpStream, shared: &Mutex<Shared>) {
    let _ = connection.set_read_timeout(Some(Duration::from_secs(120)));
    let mut reader = BufReader::new(connection);
    while let Ok(Some(request)) = read(&mut reader) {
        let answer = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.requests.push(request);
            shared.answers.pop().unwrap_or(Answer::Accept)
        };
        if write(connection, &answer).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).context("a request line has a path")?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("a header has a name")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { path, headers, body: Vec::new() };
    let length: u64 = request.header("content-length").context("no content-length")?.parse()?;
    if length > MAX_BODY {
        bail!("a body of {length} bytes");
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    if request.header("content-encoding") == Some("gzip") {
        GzDecoder::new(body.as_slice()).take(MAX_BODY).read_to_end(&mut request.body)?;
    } else {
        request.body = body;
    }
    Ok(Some(request))
}

fn write(mut connection: &TcpStream, answer: &Answer) -> Result<()> {
    let (status, retry, body) = match answer {
        Answer::Accept => (200, None, ExportProfilesServiceResponse { partial_success: None }),
        Answer::Reject(rejected) => {
            let part = ExportProfilesPartialSuccess {
                rejected_profiles: *rejected,
                error_message: "the test says so".to_owned(),
            };
            (200, None, ExportProfilesServiceResponse { partial_success: Some(part) })
        }
        Answer::Status(status, retry) => (*status, *retry, ExportProfilesServiceResponse { partial_success: None }),
    };
    let body = body.encode_to_vec();
    let retry = retry.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = "Content-Type: application/x-protobuf\r\n";
    write!(connection, "HTTP/1.1 {status} Test\r\n{head}{retry}Content-Length: {length}\r\n\r\n")?;
    connection.write_all(&body)?;
    Ok(())
}
