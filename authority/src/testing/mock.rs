//! An API server that expects calls in a given order. A call that does not
//! come fails the test by a timeout, one that was not expected by an error.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tower_test::mock::Handle;

type Script = Box<dyn FnOnce(&Call) -> Answer + Send>;

/// A call of the API server.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl Call {
    /// Method and path, without the query.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What the API server answers.
pub(crate) struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    /// An object.
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    /// An error.
    pub(crate) fn status(status: u16) -> Self {
        let reason = match status {
            404 => "NotFound",
            409 => "Conflict",
            403 => "Forbidden",
            _ => "InternalError",
        };
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": reason, "code": status});
        Self { status, body }
    }
}

/// Scripts the answers.
pub(crate) struct Server {
    sender: mpsc::UnboundedSender<Script>,
    task: JoinHandle<()>,
}

/// A client and the server it talks to.
pub(crate) fn api() -> (Client, Server) {
    let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let (sender, receiver) = mpsc::unbounded_channel();
    let task = tokio::spawn(serve(handle, receiver));
    (Client::new(service, "default"), Server { sender, task })
}

impl Server {
    /// The next call is answered so.
    pub(crate) fn expect(self, script: impl FnOnce(&Call) -> Answer + Send + 'static) -> Self {
        self.sender.send(Box::new(script)).ok().unwrap();
        self
    }

    /// Every expected call has come; what a script asserts has held.
    pub(crate) async fn done(self) {
        drop(self.sender);
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("an expected call did not come").unwrap();
    }
}

async fn serve(
    mut handle: Handle<Request<Body>, Response<Body>>,
    mut scripts: mpsc::UnboundedReceiver<Script>,
) {
    let mut waiting = VecDeque::new();
    loop {
        let script = match waiting.pop_front() {
            Some(script) => script,
            None => match scripts.recv().await {
                Some(script) => script,
                None => return,
            },
        };
        while let Ok(more) = scripts.try_recv() {
            waiting.push_back(more);
        }
        let (request, respond) = handle.next_request().await.expect("the client lives");
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let call = Call {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        let answer = script(&call);
        let body = Body::from(serde_json::to_vec(&answer.body).unwrap());
        respond.send_response(
            Response::builder()
                .status(answer.status)
                .body(body)
                .unwrap(),
        );
    }
}
