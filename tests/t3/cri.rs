//! The container runtime interface of Kubernetes, as kubelet calls it: the calls for pods, with their messages by hand
//! (`runtime.v1`, k8s.io/cri-api, `pkg/apis/runtime/v1/api.proto`). The decoder skips every other field.

use std::collections::HashMap;

use http::uri::PathAndQuery;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::Failure;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PortMapping {
    /// 0: TCP, 1: UDP
    #[prost(int32, tag = "1")]
    pub protocol: i32,
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    #[prost(int32, tag = "3")]
    pub host_port: i32,
    #[prost(string, tag = "4")]
    pub host_ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSandbox {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, repeated, tag = "5")]
    pub port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub config: Option<SandboxConfig>,
}

/// The answer to RunPodSandbox, and the request of StopPodSandbox and RemovePodSandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatus {
    /// 0: ready, 1: not ready
    #[prost(int32, tag = "3")]
    pub state: i32,
    #[prost(message, optional, tag = "5")]
    pub network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    pub ip: String,
    #[prost(message, repeated, tag = "2")]
    pub additional: Vec<PodIp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodIp {
    #[prost(string, tag = "1")]
    pub ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(bool, tag = "2")]
    pub status: bool,
    #[prost(string, tag = "3")]
    pub reason: String,
    #[prost(string, tag = "4")]
    pub message: String,
}

/// A runtime's service.
pub struct Cri {
    thread: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects to the service at a socket.
    pub fn connect(socket: &str) -> Result<Self, Failure> {
        let thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{socket}"))?;
        let channel = thread.block_on(endpoint.connect())?;
        Ok(Self { thread, channel })
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| error.to_string())?;
            let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().map_err(|_| "no path")?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.unary(Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| format!("{method}: {}", status.message()))
        };
        Ok(self.thread.block_on(call)?)
    }

    /// Starts a pod, and returns its ID.
    pub fn run(&self, config: SandboxConfig) -> Result<String, Failure> {
        let started: PodSandbox = self.call("RunPodSandbox", RunPodSandboxRequest { config: Some(config) })?;
        Ok(started.id)
    }

    /// Whether a pod is ready, and its addresses.
    pub fn status(&self, id: &str) -> Result<(bool, Vec<String>), Failure> {
        let request = PodSandboxStatusRequest { id: id.to_owned() };
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", request)?;
        let status = answer.status.ok_or("no status")?;
        let network = status.network.unwrap_or_default();
        let all = [network.ip].into_iter().chain(network.additional.into_iter().map(|more| more.ip));
        Ok((status.state == 0, all.filter(|ip| !ip.is_empty()).collect()))
    }

    /// Stops and removes a pod.
    pub fn remove(&self, id: &str) -> Result<(), Failure> {
        let pod = PodSandbox { id: id.to_owned() };
        let _: Empty = self.call("StopPodSandbox", pod.clone())?;
        let _: Empty = self.call("RemovePodSandbox", pod)?;
        Ok(())
    }

    /// The conditions that do not hold, such as `NetworkReady`.
    pub fn not_ready(&self) -> Result<Vec<String>, Failure> {
        let answer: StatusResponse = self.call("Status", Empty {})?;
        let conditions = answer.status.ok_or("no status")?.conditions;
        let wrong = conditions.into_iter().filter(|condition| !condition.status);
        Ok(wrong.map(|one| format!("{} {} {}", one.kind, one.reason, one.message)).collect())
    }
}
