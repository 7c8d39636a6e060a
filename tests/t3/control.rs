//! A control plane: etcd, and the real API server and controller manager, on a host of their own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::types::Family;
use lab::netns::Room;
use lab::process::{Daemon, Launch, last_lines};
use lab::wait::eventually;
use lab::world::World;
use serde_json::{Value, json};
use tests::apiserver::User;
use tests::apiserver::cases;
use tests::apiserver::client::{Caller, kubeconfig};
use tests::apiserver::tls::Authority;
use tests::kubernetes::program;

use crate::{Failure, Outcome, host};

/// The first address of the services: the API server's own.
pub const SERVICE: &str = "10.96.0.1";
/// Where the files of the control plane are: on the sandbox's own tmpfs.
const FILES: &str = "/run/lab/control";
const PORT: u16 = 6443;
pub const PATIENCE: Duration = Duration::from_secs(60);
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

/// A control plane on one host of a world.
pub struct Control {
    host: usize,
    address: IpAddr,
    pub authority: Authority,
    etcd: Option<Daemon>,
    api: Option<Daemon>,
    manager: Option<Daemon>,
    admin: Caller,
}

impl Drop for Control {
    fn drop(&mut self) {
        // the API server first: without etcd it takes minutes to end
        for daemon in [&mut self.manager, &mut self.api, &mut self.etcd] {
            drop(daemon.take());
        }
    }
}

impl Control {
    /// Starts etcd and the API server, which knows the users of the table of cases and `more`.
    pub fn start(world: &World, host: usize, more: &[User]) -> Result<Self, Failure> {
        let address = world.topology.underlay(host, Family::V4).ok_or("no such host")?;
        let authority = Authority::make(Path::new(FILES), "cluster")?;
        authority.sign("apiserver", &[&address.to_string(), SERVICE])?;
        authority.sign("accounts", &["accounts"])?;
        let users = cases::users().into_iter().chain(more.iter().cloned());
        let lines: Vec<String> = users.map(|user| line(&user)).collect();
        fs::write(file("tokens.csv"), lines.concat())?;
        let url = format!("https://{}", SocketAddr::new(address, PORT));
        let admin = cases::users().remove(0).token;
        let admin = Caller::new(&kubeconfig(&url, Some(&authority.certificate()), &admin))?;
        let mut control = Self { host, address, authority, etcd: None, api: None, manager: None, admin };
        control.start_etcd(world)?;
        control.start_api(world)?;
        Ok(control)
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.address, PORT))
    }

    /// The kubeconfig file of a user.
    pub fn kubeconfig(&self, user: &User) -> Result<PathBuf, Failure> {
        let path = file(&format!("{}.kubeconfig", user.name.replace(':', "-")));
        let text = kubeconfig(&self.url(), Some(&self.authority.certificate()), &user.token);
        fs::write(&path, text.to_string())?;
        Ok(path)
    }

    fn launch(&self, world: &World, program: PathBuf, args: &[String]) -> Result<Daemon, Failure> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let launch = Launch {
            args: args.iter().map(Into::into).collect(),
            env: Vec::new(),
            netns: self.room(world)?.path().to_owned(),
            log: file(&format!("{name}.log")),
            outlive: false,
            program,
        };
        Ok(launch.start()?)
    }

    fn room<'a>(&self, world: &'a World) -> Result<&'a Room, Failure> {
        Ok(world.host(self.host)?)
    }

    fn start_etcd(&mut self, world: &World) -> Outcome {
        let args = [
            format!("--data-dir={FILES}/etcd"),
            "--unsafe-no-fsync".into(),
            "--logger=zap".into(),
            "--log-level=error".into(),
        ];
        self.etcd = Some(self.launch(world, "etcd".into(), &args)?);
        Ok(())
    }

    /// Starts the API server, and waits until it is ready.
    pub fn start_api(&mut self, world: &World) -> Outcome {
        let args = [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--tls-cert-file={FILES}/apiserver.pem"),
            format!("--tls-private-key-file={FILES}/apiserver.key"),
            // a certificate is a public key, too
            format!("--service-account-key-file={FILES}/accounts.pem"),
            format!("--service-account-signing-key-file={FILES}/accounts.key"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--cert-dir={FILES}/certificates"),
            format!("--secure-port={PORT}"),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--token-auth-file={FILES}/tokens.csv"),
            "--anonymous-auth=false".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            // pods without a service account's token
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        let program = program("kube-apiserver").ok_or("no kube-apiserver")?;
        self.api = Some(self.launch(world, program, &args)?);
        let log = file("kube-apiserver.log");
        eventually("the API server is ready", PATIENCE, || {
            match self.call(world, "GET", "/api/v1/namespaces/default", &Value::Null) {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}; {}", last_lines(&log))),
            }
        })?;
        Ok(())
    }

    /// Kills the API server.
    pub fn kill_api(&mut self) -> Outcome {
        Ok(self.api.take().ok_or("it does not run")?.kill()?)
    }

    /// Starts the controllers that a pod network needs.
    pub fn start_manager(&mut self, world: &World, networks: &str) -> Outcome {
        let admin = self.kubeconfig(&cases::users().remove(0))?;
        let args = [
            format!("--kubeconfig={}", admin.display()),
            "--allocate-node-cidrs".into(),
            format!("--cluster-cidr={networks}"),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--leader-elect=false".into(),
            "--controllers=nodeipam,nodelifecycle,endpoint,endpointslice".into(),
            format!("--cert-dir={FILES}/certificates"),
            "--bind-address=127.0.0.1".into(),
            "--port=0".into(),
        ];
        let program = program("kube-controller-manager").ok_or("no kube-controller-manager")?;
        self.manager = Some(self.launch(world, program, &args)?);
        Ok(())
    }

    /// A call of the administrator's.
    pub fn call(&self, world: &World, method: &str, path: &str, body: &Value) -> Result<(u16, Value), Failure> {
        self.room(world)?.enter(|| self.admin.call(method, path, body))?
    }

    /// The same, which must succeed.
    pub fn done(&self, world: &World, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        self.room(world)?.enter(|| self.admin.done(method, path, body))?
    }

    /// Gives a user, or a service account, a role with these rules.
    pub fn allow(&self, world: &World, role: &str, subject: &Value, rules: &Value) -> Outcome {
        let api = "rbac.authorization.k8s.io";
        let version = format!("{api}/v1");
        let named = json!({ "name": role });
        let body = json!({ "kind": "ClusterRole", "apiVersion": version, "metadata": named, "rules": rules });
        self.done(world, "POST", ROLES, &body)?;
        let reference = json!({ "apiGroup": api, "kind": "ClusterRole", "name": role });
        let body = json!({
            "kind": "ClusterRoleBinding", "apiVersion": version, "metadata": named, "roleRef": reference,
            "subjects": [subject],
        });
        self.done(world, "POST", BINDINGS, &body)?;
        Ok(())
    }

    /// Makes etcd forget all old versions, and the API server with its cache.
    pub fn forget(&mut self, world: &World) -> Outcome {
        let ctl = |args: &[&str]| {
            let mut command = std::process::Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(args);
            self.room(world)?.enter(|| host::output(&mut command))?
        };
        let status: Value = serde_json::from_str(&ctl(&["endpoint", "status", "-w", "json"])?)?;
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        ctl(&["compact", &revision])?;
        self.kill_api()?;
        self.start_api(world)
    }
}

/// A line of the file of tokens: token, name, ID, groups.
fn line(user: &User) -> String {
    let User { token, name, may } = user;
    let group = match (may.iter().any(|may| may == "*"), name.starts_with("system:node:")) {
        (true, _) => ",\"system:masters\"",
        (_, true) => ",\"system:nodes\"",
        _ => "",
    };
    format!("{token},{name},{name}{group}\n")
}

fn file(name: &str) -> PathBuf {
    Path::new(FILES).join(name)
}
