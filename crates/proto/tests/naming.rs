//! The names in `proto/` follow buf's standard rules, so that generated code reads well in every language.
//!
//! Source: <https://buf.build/docs/lint/rules>, category STANDARD. Two of its rules are left out: that a service's
//! name ends in "Service" (users call `KeyValue`, not `KeyValueService`), and, for the internal package, that each
//! rpc has a request and a response of its own (`Link` speaks the same message both ways).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor, ServiceDescriptor};

/// The package whose rpcs clients call.
const PUBLIC_PACKAGE: &str = "cirrus.v1";

#[test]
fn names_follow_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = proto_files(&root);
    assert!(files.len() >= 6, "found only {files:?}");
    let complaints = complaints(&root, &files);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn broken_rules_are_noticed() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("naming");
    std::fs::create_dir_all(root.join("cirrus/v1")).unwrap();
    std::fs::write(
        root.join("cirrus/v1/BadFile.proto"),
        r#"
        syntax = "proto3";
        package cirrus.v2beta;
        service good_or_not { rpc do_it(bad_message) returns (stream bad_message); }
        message bad_message {
          int32 camelCase = 1;
          oneof Either { int32 double__underscore = 2; }
          map<string, string> map_field = 3;
          enum Colour { RED = 0; COLOUR_blue = 1; }
        }
        "#,
    )
    .unwrap();
    let complaints = complaints(&root, &proto_files(&root)).join("\n");
    for expected in [
        "cirrus/v1/BadFile.proto: the file's name is not lower_snake_case",
        "package cirrus.v2beta is not that of its directory, cirrus.v1",
        "package cirrus.v2beta does not end in a version",
        "service good_or_not is not PascalCase",
        "rpc do_it is not PascalCase",
        "message bad_message is not PascalCase",
        "field camelCase is not lower_snake_case",
        "field double__underscore is not lower_snake_case",
        "oneof Either is not lower_snake_case",
        "value RED does not begin with COLOUR_",
        "the value 0, RED, is not COLOUR_UNSPECIFIED",
        "value COLOUR_blue is not UPPER_SNAKE_CASE",
    ] {
        assert!(complaints.contains(expected), "no complaint that {expected} in\n{complaints}");
    }
    // The entry message that protobuf makes for a map is nobody's choice of name.
    assert!(!complaints.contains("MapFieldEntry"), "{complaints}");
}

/// All .proto files below `root`, relative to it.
fn proto_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn complaints(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let compiled = protox::compile(files, [root]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(compiled).unwrap();
    let mut complaints = Vec::new();
    for file in pool.files().filter(|file| files.iter().any(|path| path.to_str() == Some(file.name()))) {
        let mut of_file = Vec::new();
        check_file(&file, &mut of_file);
        file.services().for_each(|service| check_service(&service, &mut of_file));
        file.messages().for_each(|message| check_message(&message, &mut of_file));
        file.enums().for_each(|enumeration| check_enum(&enumeration, &mut of_file));
        complaints.extend(of_file.into_iter().map(|complaint| format!("{}: {complaint}", file.name())));
    }
    complaints
}

fn check_file(file: &FileDescriptor, complaints: &mut Vec<String>) {
    let path = Path::new(file.name());
    let package = file.package_name();
    let folder = path.parent().and_then(Path::to_str).unwrap_or_default().replace('/', ".");
    require(path.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_lower_snake_case), complaints, || {
        "the file's name is not lower_snake_case".to_owned()
    });
    require(package == folder, complaints, || format!("package {package} is not that of its directory, {folder}"));
    let version = package.rsplit('.').next().and_then(|last| last.strip_prefix('v'));
    let is_version = version.is_some_and(|number| number.parse::<u32>().is_ok_and(|number| number > 0));
    require(is_version, complaints, || format!("package {package} does not end in a version"));
}

fn check_service(service: &ServiceDescriptor, complaints: &mut Vec<String>) {
    let name = service.name();
    require(is_pascal_case(name), complaints, || format!("service {name} is not PascalCase"));
    for rpc in service.methods() {
        let name = rpc.name();
        require(is_pascal_case(name), complaints, || format!("rpc {name} is not PascalCase"));
        if service.parent_file().package_name() == PUBLIC_PACKAGE {
            for (message, expected) in
                [(rpc.input(), format!("{name}Request")), (rpc.output(), format!("{name}Response"))]
            {
                // Either form is one of buf's: `List` of `Sql` has a `ListRequest` or a `SqlListRequest`.
                let with_service = format!("{}{expected}", service.name());
                require(message.name() == expected || message.name() == with_service, complaints, || {
                    format!("rpc {name} has {}, not {expected} or {with_service}", message.name())
                });
            }
        }
    }
}

fn check_message(message: &MessageDescriptor, complaints: &mut Vec<String>) {
    if message.is_map_entry() {
        return;
    }
    let name = message.name();
    require(is_pascal_case(name), complaints, || format!("message {name} is not PascalCase"));
    for field in message.fields() {
        let field = field.name();
        require(is_lower_snake_case(field), complaints, || format!("{name}: field {field} is not lower_snake_case"));
    }
    // An optional field makes a oneof that nobody named.
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let oneof = oneof.name();
        require(is_lower_snake_case(oneof), complaints, || format!("{name}: oneof {oneof} is not lower_snake_case"));
    }
    message.child_messages().for_each(|child| check_message(&child, complaints));
    message.child_enums().for_each(|child| check_enum(&child, complaints));
}

fn check_enum(enumeration: &EnumDescriptor, complaints: &mut Vec<String>) {
    let name = enumeration.name();
    require(is_pascal_case(name), complaints, || format!("enum {name} is not PascalCase"));
    let prefix = upper_snake_case(name) + "_";
    for value in enumeration.values() {
        let value_name = value.name();
        require(is_upper_snake_case(value_name), complaints, || {
            format!("{name}: value {value_name} is not UPPER_SNAKE_CASE")
        });
        require(value_name.starts_with(&prefix), complaints, || {
            format!("{name}: value {value_name} does not begin with {prefix}")
        });
        let unspecified = format!("{prefix}UNSPECIFIED");
        require(value.number() != 0 || value_name == unspecified, complaints, || {
            format!("{name}: the value 0, {value_name}, is not {unspecified}")
        });
    }
}

fn require(holds: bool, complaints: &mut Vec<String>, complaint: impl FnOnce() -> String) {
    if !holds {
        complaints.push(complaint());
    }
}

fn is_pascal_case(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.chars().all(|char| char.is_ascii_alphanumeric())
}

fn is_lower_snake_case(name: &str) -> bool {
    is_snake_case(name, |char| char.is_ascii_lowercase())
}

fn is_upper_snake_case(name: &str) -> bool {
    is_snake_case(name, |char| char.is_ascii_uppercase())
}

/// Words of letters and digits, the first beginning with a letter, with single underscores between them.
fn is_snake_case(name: &str, is_letter: impl Fn(char) -> bool) -> bool {
    name.starts_with(&is_letter)
        && name.split('_').all(|word| !word.is_empty() && word.chars().all(|c| is_letter(c) || c.is_ascii_digit()))
}

/// "ReadConsistency" as "READ_CONSISTENCY".
fn upper_snake_case(name: &str) -> String {
    let mut result = String::new();
    for (index, char) in name.chars().enumerate() {
        if index > 0 && char.is_ascii_uppercase() {
            result.push('_');
        }
        result.push(char.to_ascii_uppercase());
    }
    result
}
