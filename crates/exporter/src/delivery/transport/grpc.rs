//! gRPC: the profiles service's `Export`.
//!
//! Requests are encoded once and sent as they are, however often they are sent: the codec passes bytes.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceResponse;
use prost::Message;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::super::DeliveryError;
use super::super::outcome::{Answer, chain, of_grpc};
use super::super::settings::{Compression, OtlpSettings};
use super::{MAX_RESPONSE_BYTES, USER_AGENT, headers, tls, without_credentials};

const EXPORT: &str = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";

pub(crate) struct Grpc {
    endpoint: Endpoint,
    channel: Channel,
    metadata: MetadataMap,
    compression: Compression,
    timeout: Duration,
}

impl Grpc {
    pub(crate) fn new(settings: &OtlpSettings) -> Result<Self, DeliveryError> {
        let text = settings.endpoint.text().trim();
        let err = |why: &str| DeliveryError::Endpoint { endpoint: without_credentials(text), why: why.to_owned() };
        let url = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None if settings.insecure => format!("http://{text}"),
            None => format!("https://{text}"),
        };
        let mut endpoint = Endpoint::from_shared(url).map_err(|e| err(&chain(&e)))?;
        let uri = endpoint.uri().clone();
        if uri.host().is_none_or(str::is_empty) {
            return Err(err("names no host"));
        }
        if !matches!(uri.path(), "" | "/") {
            tracing::warn!(endpoint = without_credentials(text), "the path of a gRPC endpoint is not used");
        }
        endpoint = match uri.scheme_str() {
            Some("http") => endpoint,
            Some("https") => endpoint.tls_config(tls::for_grpc(settings)?).map_err(|e| err(&chain(&e)))?,
            _ => return Err(err("its scheme is neither http nor https")),
        };
        let endpoint = endpoint.user_agent(USER_AGENT).map_err(|e| err(&chain(&e)))?;
        Ok(Self {
            channel: endpoint.connect_lazy(),
            endpoint,
            metadata: MetadataMap::from_headers(headers::parse(&settings.headers)?),
            compression: settings.compression,
            timeout: settings.timeout,
        })
    }

    pub(crate) async fn send(&mut self, bytes: Bytes) -> Answer {
        let mut request = Request::new(bytes);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        let call = export(self.channel.clone(), self.compression, request);
        let answer = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => {
                let partial = response.and_then(|r| r.partial_success).unwrap_or_default();
                return Answer::accepted("OK", partial.rejected_profiles, &partial.error_message);
            }
            Ok(Err(status)) => of_status(&status),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| {
            // The peer may be gone without a word: the next attempt gets a connection of its own.
            self.channel = self.endpoint.connect_lazy();
            Answer::retry("timeout", &format!("no answer within {:?}", self.timeout))
        })
    }
}

async fn export(
    channel: Channel,
    compression: Compression,
    request: Request<Bytes>,
) -> Result<Option<ExportProfilesServiceResponse>, Status> {
    // Servers in Go answer with the compression of the request, whatever they are told that we accept. The limit holds
    // for the unpacked answer too.
    let mut client = tonic::client::Grpc::new(channel)
        .max_decoding_message_size(MAX_RESPONSE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    if compression == Compression::Gzip {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    client.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
    let path = PathAndQuery::from_static(EXPORT);
    client.unary(request, path, Passing).await.map(tonic::Response::into_inner)
}

/// A status may be the server's, or tonic's own word for what went wrong on the way. None: the time was over.
fn of_status(status: &Status) -> Option<Answer> {
    let too_large =
        [(Code::OutOfRange, "message length too large"), (Code::ResourceExhausted, "Error decompressing: size limit")];
    if too_large.iter().any(|(code, words)| status.code() == *code && status.message().contains(words)) {
        return Some(Answer::refused("response", status.message()));
    }
    let mut on_the_way = None;
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return None;
        }
        if error.is::<tonic::ConnectError>() {
            on_the_way = Some("connect");
        } else if error.is::<tonic::transport::Error>() || error.is::<std::io::Error>() {
            on_the_way = on_the_way.or(Some("transport"));
        }
        source = error.source();
    }
    Some(match (on_the_way, std::error::Error::source(status)) {
        (Some(code), Some(error)) => Answer::retry(code, &chain(error)),
        _ => of_grpc(status),
    })
}

/// A codec that takes requests as bytes. An answer that cannot be read says nothing against a status of OK.
struct Passing;

impl Codec for Passing {
    type Encode = Bytes;
    type Decode = Option<ExportProfilesServiceResponse>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Passing {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Passing {
    type Item = Option<ExportProfilesServiceResponse>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(ExportProfilesServiceResponse::decode(bytes).ok()))
    }
}
