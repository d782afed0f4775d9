//! Creating many objects at once, as fast as the API server accepts them.

use serde_json::Value;
use tokio::task::JoinSet;

use super::Client;

/// Number of concurrent requests.
const WORKERS: usize = 32;

impl Client {
    /// Creates namespaced objects that do not exist yet.
    ///
    /// # Panics
    /// If an object is refused, with its name and the API server's reason.
    pub fn create_all(&self, objects: Vec<Value>) {
        let mut parts: Vec<Vec<Value>> = (0..WORKERS).map(|_| Vec::new()).collect();
        for (at, object) in objects.into_iter().enumerate() {
            parts[at % WORKERS].push(object);
        }
        let client = self.client();
        self.wait(async move {
            let mut workers = JoinSet::new();
            for part in parts {
                let client = client.clone();
                workers.spawn(async move {
                    for object in part {
                        create(&client, &object).await;
                    }
                });
            }
            while let Some(done) = workers.join_next().await {
                done.expect("every object is created");
            }
        });
    }
}

async fn create(client: &kube::Client, object: &Value) {
    let path = path(object);
    let request = http::Request::post(&path).header("content-type", "application/json");
    let request = request.body(object.to_string().into_bytes()).expect("the request is valid");
    let name = &object["metadata"]["name"];
    client
        .request_text(request)
        .await
        .unwrap_or_else(|error| panic!("cannot create {name} of {path}: {error}"));
}

/// The path of the collection of the object's kind and namespace. Only kinds with a plural in -s are
/// supported.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = format!("{}s", text(&object["kind"]).to_lowercase());
    format!("/{root}/{version}/namespaces/{}/{plural}", text(&object["metadata"]["namespace"]))
}
