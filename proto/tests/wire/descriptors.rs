//! The descriptors that reflection shows.

use prost::Message;
use tuplelab_proto::{DESCRIPTORS, v1};

/// As much of `google.protobuf.FileDescriptorSet` as is looked at here.
#[derive(Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}
#[derive(Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}
#[derive(Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
}

#[test]
fn the_descriptors_name_every_service() {
    let files = Files::decode(DESCRIPTORS).expect("a descriptor set");
    let names = files
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package, service.name)));
    assert_eq!(names.collect::<Vec<_>>(), [v1::agents_server::SERVICE_NAME, v1::lab_server::SERVICE_NAME]);
}
