//! A gRPC server that answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::profiles::v1development::profiles_service_server::{
    ProfilesService, ProfilesServiceServer,
};
use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesPartialSuccess, ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Act {
    Accept,
    Partial(i64, String),
    Fail(Status),
    Hang,
}

/// What came, and what to answer next; once the script is over, everything is accepted.
#[derive(Clone, Default)]
pub struct Script {
    pub acts: Arc<Mutex<VecDeque<Act>>>,
    pub seen: Arc<Mutex<Vec<(MetadataMap, ExportProfilesServiceRequest)>>>,
}

impl Script {
    pub fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        let script = Self::default();
        script.acts.lock().unwrap().extend(acts);
        script
    }

    pub fn requests(&self) -> Vec<ExportProfilesServiceRequest> {
        self.seen.lock().unwrap().iter().map(|(_, r)| r.clone()).collect()
    }

    pub fn metadata(&self, request: usize) -> MetadataMap {
        self.seen.lock().unwrap()[request].0.clone()
    }
}

#[tonic::async_trait]
impl ProfilesService for Script {
    async fn export(
        &self,
        request: Request<ExportProfilesServiceRequest>,
    ) -> Result<Response<ExportProfilesServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.seen.lock().unwrap().push((metadata, message));
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Accept);
        match act {
            Act::Accept => Ok(Response::new(ExportProfilesServiceResponse {
                partial_success: Some(ExportProfilesPartialSuccess::default()),
            })),
            Act::Partial(rejected_profiles, error_message) => Ok(Response::new(ExportProfilesServiceResponse {
                partial_success: Some(ExportProfilesPartialSuccess { rejected_profiles, error_message }),
            })),
            Act::Fail(status) => Err(status),
            Act::Hang => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                Err(Status::internal("hung"))
            }
        }
    }
}

/// Serves in the background until the test's runtime ends.
pub async fn serve(script: Script, tls: Option<ServerTlsConfig>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    serve_on(listener, script, tls).await
}

pub async fn serve_on(listener: std::net::TcpListener, script: Script, tls: Option<ServerTlsConfig>) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
    let service = ProfilesServiceServer::new(script)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
    address
}
