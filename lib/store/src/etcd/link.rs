//! A connection to one member: HTTP/2, TLS, and the login.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::sync::Notify;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::error::LinkError;
use super::options::{Address, Options, TlsFiles};
use super::pb;
use crate::files::read_configured;

/// All leases of a large cluster come in one answer: 10,000 leases are 2.5 MB. The limit only protects against a
/// broken member.
const LARGEST: usize = 256 << 20;

/// A bundle of all public certificate authorities is 220 KB.
const LARGEST_PEM: u64 = 4 << 20;

/// How many bytes a member may send before an acknowledgement.
const WINDOW: u32 = 1 << 20;

/// One call of etcd's API.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    /// The operation for error messages: a verb and its object.
    pub(super) op: &'static str,
    pub(super) path: &'static str,
}

/// Whether the name of a member leads anywhere. To connect does the same again, but says only that it takes too long.
async fn resolve(address: &Address, wait: Duration) -> Result<(), LinkError> {
    if address.ip().is_some() {
        return Ok(());
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", wait.as_millis()));
    let found = tokio::time::timeout(wait, tokio::net::lookup_host(&address.authority)).await;
    match found.unwrap_or_else(|_| Err(late())) {
        Ok(_) => Ok(()),
        Err(source) => Err(LinkError::Name { host: address.authority.clone(), source }),
    }
}

/// An open connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Unique per connection.
    pub(super) number: u64,
    /// The index of the endpoint.
    pub(super) index: usize,
    pub(super) endpoint: Arc<str>,
    /// The token that each call carries; each login replaces it.
    pub(super) token: Option<MetadataValue<Ascii>>,
    /// Notified when a call finds that the member is dead, for tasks that only wait for the member.
    pub(super) left: Arc<Notify>,
    channel: Channel,
    wait: Duration,
}

impl Link {
    /// Connects to `options.endpoints[index]` and logs in.
    pub(super) async fn open(options: &Options, index: usize, number: u64) -> Result<Self, LinkError> {
        let address = &options.endpoints[index];
        let endpoint = endpoint(address, options)?;
        let wait = options.timing.connect;
        resolve(address, wait).await?;
        let connected = tokio::time::timeout(wait, endpoint.connect()).await;
        let channel = connected.map_err(|_| LinkError::Slow(wait))?.map_err(LinkError::Transport)?;
        let mut link = Self {
            number,
            index,
            endpoint: address.to_string().into(),
            token: None,
            left: Arc::default(),
            channel,
            wait: options.timing.call,
        };
        link.log_in(options).await?;
        Ok(link)
    }

    /// Gets a token, if a user is configured.
    pub(super) async fn log_in(&mut self, options: &Options) -> Result<(), LinkError> {
        let Some(login) = &options.login else { return Ok(()) };
        let ask = pb::AuthenticateRequest { name: login.user.clone(), password: login.password.expose().to_owned() };
        let method = Method { op: "log in", path: "/etcdserverpb.Auth/Authenticate" };
        let refused = |status| LinkError::Login { user: login.user.clone(), status: Box::new(status) };
        self.token = None;
        match self.unary::<_, pb::AuthenticateResponse>(method, ask).await {
            Ok(answer) => {
                let token = answer.token.parse().map_err(|_| refused(Status::internal("the token is not ASCII")))?;
                self.token = Some(token);
                Ok(())
            }
            // A user may be configured before etcd requires a login.
            Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
            Err(status) => Err(refused(status)),
        }
    }

    /// Sends one request and waits for one answer.
    pub(super) async fn unary<Q, A>(&self, method: Method, ask: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(method.path);
            Ok(grpc.unary(self.request(ask), path, codec).await?.into_inner())
        };
        self.bounded(call).await
    }

    /// Sends one request and opens a stream of answers. The stream is open until it is dropped.
    pub(super) async fn stream<Q, A>(&self, method: Method, ask: Q) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(method.path);
            let asks = stream::once(async { ask }).chain(stream::pending());
            let mut request = self.request(asks);
            // A member that has lost contact with the others then ends the stream, rather than staying silent.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            Ok(grpc.streaming(request, path, codec).await?.into_inner())
        };
        self.bounded(call).await
    }

    /// The first answer of a stream.
    pub(super) async fn first<Q, A>(&self, method: Method, ask: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut answers = self.stream(method, ask).await?;
        let answer = self.bounded(answers.message()).await?;
        answer.ok_or_else(|| Status::unavailable("the connection has ended"))
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }

    fn request<T>(&self, ask: T) -> Request<T> {
        let mut request = Request::new(ask);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.wait, pin!(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} ms", self.wait.as_millis()))),
        }
    }
}

fn endpoint(address: &Address, options: &Options) -> Result<Endpoint, LinkError> {
    let timing = &options.timing;
    let endpoint = Endpoint::from_shared(address.to_string()).map_err(LinkError::Transport)?;
    let endpoint = endpoint
        .connect_timeout(timing.connect)
        .http2_keep_alive_interval(timing.keep_alive)
        .keep_alive_timeout(timing.keep_alive_answer)
        // etcd closes a connection that sends keepalives while no call is open.
        .keep_alive_while_idle(false)
        // HTTP/2's default of 64 KB would need dozens of round trips for a list of leases. hyper's adaptive window
        // measures with pings, which etcd also treats as an attack.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    if !address.tls {
        return Ok(endpoint);
    }
    endpoint.tls_config(tls(&options.tls)?).map_err(LinkError::Transport)
}

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, LinkError> {
    let mut config = ClientTlsConfig::new();
    config = match &files.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => config.with_native_roots(),
    };
    if let Some((cert, key)) = &files.pair {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, LinkError> {
    read_configured(path, LARGEST_PEM).map_err(|source| LinkError::File { path: path.to_owned(), source })
}
