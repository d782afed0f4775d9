//! A blocking client of an API server. Its sockets are in the control plane's namespace. Objects are
//! JSON as the API writes it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{ApiCapabilities, Scope, pinned_kind};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Field manager of applied objects.
const MANAGER: &str = "svclb-test";

/// Identifies an object by version, kind, namespace and name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// Such as `v1` or `discovery.k8s.io/v1`.
    pub api_version: String,
    /// Such as `Service`.
    pub kind: String,
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
}

impl Reference {
    /// An object by its version, kind, and `NAMESPACE/NAME` or `NAME`.
    pub fn new(api_version: &str, kind: &str, name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// A Service, by `NAMESPACE/NAME`.
    pub fn service(name: &str) -> Self {
        Self::new("v1", "Service", name)
    }

    /// A Pod, by `NAMESPACE/NAME`.
    pub fn pod(name: &str) -> Self {
        Self::new("v1", "Pod", name)
    }

    /// A Node.
    pub fn node(name: &str) -> Self {
        Self::new("v1", "Node", name)
    }

    /// An EndpointSlice, by `NAMESPACE/NAME`.
    pub fn slice(name: &str) -> Self {
        Self::new("discovery.k8s.io/v1", "EndpointSlice", name)
    }

    /// The reference of an object. Missing fields are empty.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        }
    }

    fn kind(&self) -> GroupVersionKind {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        GroupVersionKind::gvk(group, version, &self.kind)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.namespace)?;
        write!(f, "{}{}", if self.namespace.is_empty() { "" } else { "/" }, self.name)
    }
}

/// A client of one user.
pub struct Client {
    runtime: Arc<Runtime>,
    client: kube::Client,
    kinds: Mutex<HashMap<GroupVersionKind, (ApiResource, ApiCapabilities)>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client that a kubeconfig configures. Its tasks run on `runtime`.
    pub(crate) fn new(runtime: &Arc<Runtime>, kubeconfig: &Path) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
        let client = wait(runtime, async {
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            let mut config = config.expect("the kubeconfig is valid");
            // The environment may set a user's proxy, which the namespace cannot reach.
            config.proxy_url = None;
            kube::Client::try_from(config)
        });
        let client = client.expect("a client can be created from the kubeconfig");
        Self { runtime: Arc::clone(runtime), client, kinds: Mutex::default() }
    }

    /// The asynchronous client, for calls that have no method here. Its sockets are in the control
    /// plane's namespace only within [`Self::wait`].
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Runs an asynchronous task in the control plane's namespace and waits for its result.
    pub fn wait<R: Send + 'static>(&self, task: impl Future<Output = R> + Send + 'static) -> R {
        wait(&self.runtime, task)
    }

    /// Applies every document of a YAML text (server-side apply) and returns the resulting objects.
    ///
    /// # Panics
    /// If an object is refused, with its name and the API server's reason.
    pub fn apply(&self, yaml: &str) -> Vec<Value> {
        self.apply_all(&documents(yaml))
    }

    /// Applies objects, several at a time. A namespace exists before the objects after it are applied.
    ///
    /// # Panics
    /// As [`Self::apply`].
    pub fn apply_all(&self, objects: &[Value]) -> Vec<Value> {
        let at_once = 16;
        let is_namespace = |object: &Value| object["kind"] == "Namespace";
        let groups = objects.chunk_by(|one, next| is_namespace(one) == is_namespace(next));
        let mut applied = Vec::with_capacity(objects.len());
        for group in groups.flat_map(|group| group.chunks(at_once)) {
            let begun: Vec<_> = group
                .iter()
                .map(|object| {
                    let reference = Reference::of(object);
                    let api = self.api(&reference).unwrap_or_else(|error| {
                        panic!("the API server has no resource for {reference}: {error}")
                    });
                    let (object, name) = (object.clone(), reference.name.clone());
                    let task = async move {
                        let how = PatchParams::apply(MANAGER).force();
                        api.patch(&name, &how, &Patch::Apply(object)).await
                    };
                    (reference, self.runtime.spawn(task))
                })
                .collect();
            for (reference, task) in begun {
                let done = self.runtime.block_on(task).expect("the task did not panic");
                let object = done
                    .unwrap_or_else(|error| panic!("cannot apply {reference}: {}", reason(&error)));
                applied.push(value(&object));
            }
        }
        applied
    }

    /// Applies an object, or only validates it (dry run).
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn try_apply(&self, object: &Value, is_dry_run: bool) -> kube::Result<Value> {
        let reference = Reference::of(object);
        let object = object.clone();
        self.on(&reference.clone(), move |api| async move {
            let how = PatchParams { dry_run: is_dry_run, ..PatchParams::apply(MANAGER).force() };
            api.patch(&reference.name, &how, &Patch::Apply(object)).await.map(|it| value(&it))
        })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn create(&self, object: &Value) -> kube::Result<Value> {
        let given: DynamicObject =
            serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        self.on(&Reference::of(object), |api| async move {
            api.create(&PostParams::default(), &given).await.map(|it| value(&it))
        })
    }

    /// Replaces an object. With a `resourceVersion`, this fails if the object has changed since.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn replace(&self, object: &Value) -> kube::Result<Value> {
        let given: DynamicObject =
            serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        let reference = Reference::of(object);
        self.on(&reference.clone(), |api| async move {
            let replaced = api.replace(&reference.name, &PostParams::default(), &given).await;
            replaced.map(|it| value(&it))
        })
    }

    /// Changes an object by a merge patch (RFC 7386).
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch(&self, what: &Reference, change: &Value) -> kube::Result<Value> {
        let (name, change) = (what.name.clone(), change.clone());
        self.on(what, |api| async move {
            let done = api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await;
            done.map(|it| value(&it))
        })
    }

    /// Changes the status of an object by a merge patch; `change` has a field `status`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn patch_status(&self, what: &Reference, change: &Value) -> kube::Result<Value> {
        let (name, change) = (what.name.clone(), change.clone());
        self.on(what, |api| async move {
            let done =
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(change)).await;
            done.map(|it| value(&it))
        })
    }

    /// Creates a subresource of an object, such as `binding` or `token`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn create_subresource(
        &self,
        what: &Reference,
        subresource: &'static str,
        object: &Value,
    ) -> kube::Result<Value> {
        let (name, object) = (what.name.clone(), object.clone());
        self.on(what, |api| async move {
            api.create_subresource(subresource, &name, &PostParams::default(), &object).await
        })
    }

    /// Deletes an object. A Pod gets `grace` seconds to terminate, if given.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn delete(&self, what: &Reference, grace: Option<u32>) -> kube::Result<()> {
        let name = what.name.clone();
        self.on(what, |api| async move {
            let how = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
            api.delete(&name, &how).await.map(drop)
        })
    }

    /// Validates a foreground deletion by a dry run.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn try_delete(&self, what: &Reference) -> kube::Result<()> {
        let name = what.name.clone();
        self.on(what, |api| async move {
            api.delete(&name, &DeleteParams::foreground().dry_run()).await.map(drop)
        })
    }

    /// Deletes the objects of a kind that are in a namespace (empty: in all) and have these labels
    /// (empty: all objects).
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn delete_all(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        labels: &str,
    ) -> kube::Result<()> {
        if namespace.is_empty() {
            for object in self.list(api_version, kind, "", labels)? {
                self.delete(&Reference::of(&object), Some(0))?;
            }
            return Ok(());
        }
        let what = Reference::new(api_version, kind, &format!("{namespace}/"));
        let list = ListParams::default().labels(labels);
        self.on(&what, |api| async move {
            api.delete_collection(&DeleteParams::default().grace_period(0), &list).await.map(drop)
        })
    }

    /// Reads an object, or returns `None` if it does not exist.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn get(&self, what: &Reference) -> kube::Result<Option<Value>> {
        let name = what.name.clone();
        self.on(what, |api| async move { Ok(api.get_opt(&name).await?.as_ref().map(value)) })
    }

    /// Lists the objects of a kind that are in a namespace (empty: in all) and have these labels (empty:
    /// all objects).
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        labels: &str,
    ) -> kube::Result<Vec<Value>> {
        let what = Reference::new(api_version, kind, &format!("{namespace}/"));
        let list = ListParams::default().labels(labels);
        let types =
            kube::core::TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        self.on(&what, |api| async move {
            let found = api.list(&list).await?.items;
            let with_types = |mut object: DynamicObject| {
                object.types = Some(types.clone());
                value(&object)
            };
            Ok(found.into_iter().map(with_types).collect())
        })
    }

    /// Reads the text at a path, such as `/readyz`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub fn text(&self, path: &str) -> kube::Result<String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let client = self.client.clone();
        self.wait(async move { client.request_text(request).await })
    }

    fn on<R, F>(
        &self,
        what: &Reference,
        task: impl FnOnce(Api<DynamicObject>) -> F,
    ) -> kube::Result<R>
    where
        R: Send + 'static,
        F: Future<Output = kube::Result<R>> + Send + 'static,
    {
        self.wait(task(self.api(what)?))
    }

    fn api(&self, what: &Reference) -> kube::Result<Api<DynamicObject>> {
        let (resource, capabilities) = self.resource(&what.kind())?;
        let client = self.client.clone();
        Ok(match (capabilities.scope, &what.namespace[..]) {
            (Scope::Namespaced, namespace) if !namespace.is_empty() => {
                Api::namespaced_with(client, namespace, &resource)
            }
            _ => Api::all_with(client, &resource),
        })
    }

    /// The resource of a kind, which is looked up once.
    fn resource(&self, kind: &GroupVersionKind) -> kube::Result<(ApiResource, ApiCapabilities)> {
        if let Some(known) = self.kinds.lock().unwrap().get(kind) {
            return Ok(known.clone());
        }
        let (client, wanted) = (self.client.clone(), kind.clone());
        let found = self.wait(async move { pinned_kind(&client, &wanted).await })?;
        self.kinds.lock().unwrap().insert(kind.clone(), found.clone());
        Ok(found)
    }
}

/// Parses the documents of a YAML text, without the empty ones.
///
/// # Panics
/// If the text is not YAML.
pub fn documents(yaml: &str) -> Vec<Value> {
    let found: Vec<Value> = serde_saphyr::from_multiple(yaml)
        .unwrap_or_else(|error| panic!("not YAML: {error}\n{yaml}"));
    found.into_iter().filter(|document| !document.is_null()).collect()
}

/// Spawns the task: polled by another thread, the future would create its sockets in that thread's
/// namespace.
fn wait<R: Send + 'static>(runtime: &Runtime, task: impl Future<Output = R> + Send + 'static) -> R {
    runtime.block_on(runtime.spawn(task)).expect("the task did not panic")
}

/// The API server's message, or the text of any other error.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}
