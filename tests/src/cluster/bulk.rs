//! Many objects at once, as quickly as the API server takes them.

use serde_json::Value;
use tokio::task::JoinSet;

use super::Client;

/// How many requests are under way at a time.
const WORKERS: usize = 32;

impl Client {
    /// Creates namespaced objects that are not there.
    ///
    /// # Panics
    /// When one is refused: with its name and the API server's reason.
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
    let request = request.body(object.to_string().into_bytes()).expect("it is a request");
    let name = &object["metadata"]["name"];
    client
        .request_text(request)
        .await
        .unwrap_or_else(|error| panic!("cannot create {name} of {path}: {error}"));
}

/// Where objects of its kind and namespace are. Kinds whose plural ends otherwise are not known here.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = format!("{}s", text(&object["kind"]).to_lowercase());
    format!("/{root}/{version}/namespaces/{}/{plural}", text(&object["metadata"]["namespace"]))
}
