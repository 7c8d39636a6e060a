//! Users, known by their tokens, and what each may do.

/// Who asks, and what that user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The bearer token.
    pub token: String,
    /// The name in messages.
    pub name: String,
    /// Verbs and resources, such as `patch nodes/status`; `*` for everything.
    pub may: Vec<String>,
}

impl User {
    /// A user who may do everything.
    pub fn admin(token: &str) -> Self {
        Self { token: token.into(), name: "admin".into(), may: vec!["*".into()] }
    }
}

/// One request, in the words of access rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) verb: &'static str,
    pub(super) resource: String,
    pub(super) name: String,
    pub(super) namespace: String,
}

impl Asked {
    /// A request with this method and these parts of the path behind `/api/v1/`. `None`: there is no such resource.
    pub(super) fn of(method: &str, watch: bool, parts: &[&str]) -> Option<Self> {
        let (namespace, parts) = match parts {
            ["namespaces", namespace, rest @ ..] => ((*namespace).to_owned(), rest),
            parts => (String::new(), parts),
        };
        let (resource, name) = match parts {
            [resource] => ((*resource).to_owned(), ""),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource, name, sub] => (format!("{resource}/{sub}"), *name),
            _ => return None,
        };
        let verb = match (method, name.is_empty()) {
            ("GET", true) if watch => "watch",
            ("GET", true) => "list",
            ("GET", false) => "get",
            ("POST", true) => "create",
            ("PATCH", false) => "patch",
            ("DELETE", false) => "delete",
            _ => return None,
        };
        let known = ["nodes", "nodes/status"].contains(&resource.as_str()) && namespace.is_empty();
        let known = known || resource == "pods" && !namespace.is_empty();
        known.then(|| Self { verb, resource, name: name.to_owned(), namespace })
    }

    pub(super) fn is_allowed(&self, user: &User) -> bool {
        user.may.iter().any(|may| may == "*" || *may == format!("{} {}", self.verb, self.resource))
    }

    /// The server's words for a request that is not allowed.
    pub(super) fn forbidden(&self, user: &str) -> String {
        let Self { verb, resource, name, namespace } = self;
        let object = match (resource.split('/').next().unwrap_or_default(), name.as_str()) {
            (kind, "") => kind.to_owned(),
            (kind, name) => format!("{kind} {name:?}"),
        };
        let place = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("{object} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group \"\" {place}")
    }
}
