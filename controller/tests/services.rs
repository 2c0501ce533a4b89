//! What a controller serves, over real sockets.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_request, server_reflection_response,
};
use tuplelab_controller::{ControllerConfig, ControllerError, Ending, Patience, serve};
use tuplelab_proto::dial::{Address, dial};
use tuplelab_proto::v1::{
    FromAgent, GetRunRequest, Hello, ListAgentsRequest, SubmitRequest, agents_client::AgentsClient,
    from_agent, lab_client::LabClient,
};

fn config(folder: &Path) -> ControllerConfig {
    ControllerConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        insecure: false,
        unix: Some(folder.join("lab.sock")),
        db: folder.join("lab.db"),
        patience: Patience::default(),
        version: "test".into(),
    }
}

struct Served {
    channel: Channel,
    folder: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ControllerError>>,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let serving = tokio::spawn(serve(
            config,
            |address| {
                let _ = ready.send(address);
            },
            async {
                let _ = stopped.await;
                Ending::ForGood
            },
        ));
        let address = is_ready.await.expect("it serves").expect("over TCP");
        let url: Address = format!("http://{address}").parse().expect("an address");
        let channel = dial(&url, None).await.expect("it answers");
        Self { channel, folder, stop, serving }
    }

    async fn end(self) {
        self.stop.send(()).expect("it still serves");
        drop(self.channel);
        self.serving.await.expect("no panic").expect("ends cleanly");
        assert!(!self.folder.path().join("lab.sock").exists(), "the socket is left");
    }
}

#[tokio::test]
async fn health_says_that_both_services_serve() {
    let served = Served::start().await;
    for service in ["tuplelab.v1.Lab", "tuplelab.v1.Agents"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(served.channel.clone()).check(request).await.expect("it answers");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    served.end().await;
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let served = Served::start().await;
    let ask = server_reflection_request::MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = ServerReflectionClient::new(served.channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("it answers").into_inner();
    let answer = answers.message().await.expect("a message").and_then(|answer| answer.message_response);
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["tuplelab.v1.Lab", "tuplelab.v1.Agents", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{service} is not among {names:?}");
    }
    drop(answers);
    served.end().await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_code_and_words() {
    let served = Served::start().await;
    let mut lab = LabClient::new(served.channel.clone());
    let mut submit = async |plan: &str| {
        let request = SubmitRequest { plan: plan.into(), submitter: "\u{1b}[31m".into() };
        lab.submit(request).await.expect_err("is refused")
    };
    let refused = submit("[clients]\nhosts = 0\n").await;
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("plan:2"), "{refused}");
    assert_eq!(submit(&"#".repeat(300 * 1024)).await.code(), tonic::Code::InvalidArgument);
    // Nobody is attached.
    let refused = submit("").await;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("0 fit"), "{refused}");
    let refused = lab.get_run(GetRunRequest { run: "'; DROP TABLE run; --".into() }).await.expect_err("none");
    assert_eq!(refused.code(), tonic::Code::NotFound);
    served.end().await;
}

#[tokio::test]
async fn an_agent_of_another_protocol_or_without_hello_is_refused_by_name() {
    let served = Served::start().await;
    let attach = async |body: Option<from_agent::Body>| {
        let mut client = AgentsClient::new(served.channel.clone());
        client.attach(tokio_stream::once(FromAgent { body })).await.expect_err("is refused")
    };
    let hello = Hello { name: "old".into(), version: "0.0.1".into(), protocol: 99, ..Default::default() };
    let refused = attach(Some(from_agent::Body::Hello(hello))).await;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    for word in ["old", "0.0.1", "protocol 99", "the same version"] {
        assert!(refused.message().contains(word), "no '{word}' in {refused}");
    }
    assert_eq!(attach(None).await.code(), tonic::Code::InvalidArgument);
    let mut lab = LabClient::new(served.channel.clone());
    let agents = lab.list_agents(ListAgentsRequest {}).await.expect("it answers").into_inner().agents;
    assert!(agents.is_empty(), "{agents:?}");
    served.end().await;
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_a_second_controller_does_not_take_it() {
    let served = Served::start().await;
    let socket = served.folder.path().join("lab.sock");
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut second = config(served.folder.path());
    second.db = served.folder.path().join("other.db");
    let refused = serve(second, |_| (), std::future::pending()).await.expect_err("it is taken");
    assert!(matches!(refused, ControllerError::Listen { .. }), "{refused}");
    served.end().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut exposed = config(folder.path());
    exposed.listen = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
    let refused = serve(exposed, |_| (), std::future::pending()).await.expect_err("is refused");
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    assert!(!folder.path().join("lab.db").exists());
}
