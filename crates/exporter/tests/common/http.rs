//! An HTTP/1.1 server that answers as it is told, by hand, so that it can misbehave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Status line's number, further head lines, body.
    Answer(u16, Vec<&'static str>, Vec<u8>),
    Hang,
    Close,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

#[derive(Clone, Default)]
pub struct Script {
    pub acts: Arc<Mutex<VecDeque<Act>>>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Script {
    pub fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        let script = Self::default();
        script.acts.lock().unwrap().extend(acts);
        script
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn talk(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        loop {
            let mut bytes = Vec::new();
            let head_end = loop {
                if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            };
            let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let Some(length): Option<usize> = length else {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nwhat?").await.ok()?;
                // Closed at once, the answer might never be read.
                tokio::time::sleep(Duration::from_secs(600)).await;
                return None;
            };
            while bytes.len() < head_end + length {
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            self.seen.lock().unwrap().push(Seen { head, body: bytes.split_off(head_end) });
            let act = self.acts.lock().unwrap().pop_front();
            match act.unwrap_or(Act::Answer(200, vec!["content-type: application/x-protobuf"], vec![])) {
                Act::Answer(status, lines, body) => {
                    let mut out = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                    for line in lines {
                        out.push_str(line);
                        out.push_str("\r\n");
                    }
                    out.push_str("\r\n");
                    stream.write_all(out.as_bytes()).await.ok()?;
                    stream.write_all(&body).await.ok()?;
                    stream.flush().await.ok()?;
                }
                Act::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
                Act::Close => return None,
            }
        }
    }
}

/// Serves in the background until the test's runtime ends.
pub async fn serve(script: Script, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (script, tls) = (script.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    Some(tls) => script.talk(tls.accept(stream).await.ok()?).await,
                    None => script.talk(stream).await,
                }
            });
        }
    });
    address
}
