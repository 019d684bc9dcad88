"""A client that has no generated code: everything it knows of Cirrus it learns by gRPC server reflection.

Usage: reflection_client.py HOST:PORT
"""

import sys
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_SECONDS = 10


class Service:
    """A service's methods as Python methods, with the types that the server describes."""

    def __init__(self, channel, pool, name):
        self._channel = channel
        self._methods = {method.name: method for method in pool.FindServiceByName(name).methods}
        self._name = name

    def __getattr__(self, name):
        method = self._methods[name]
        request_class = GetMessageClass(method.input_type)
        response_class = GetMessageClass(method.output_type)
        kind = "stream" if method.server_streaming else "unary"
        connect = self._channel.unary_stream if kind == "stream" else self._channel.unary_unary
        call = connect(
            f"/{self._name}/{name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return lambda **fields: call(request_class(**fields), timeout=TIMEOUT_SECONDS)


def check(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")
    print(f"ok: {what}")


def main(endpoint):
    # Unique, since the test runs this once through every node of one cluster.
    unique = uuid.uuid4().hex
    with grpc.insecure_channel(endpoint) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        for name in ("cirrus.v1.KeyValue", "cirrus.v1.Procedures", "cirrus.v1.Cluster", "grpc.health.v1.Health"):
            check(name in services, f"reflection lists {name}")
        check(not any(".internal." in name for name in services), "reflection shows nothing internal")

        pool = DescriptorPool(database)
        key_value = Service(channel, pool, "cirrus.v1.KeyValue")
        procedures = Service(channel, pool, "cirrus.v1.Procedures")
        cluster = Service(channel, pool, "cirrus.v1.Cluster")
        health = Service(channel, pool, "grpc.health.v1.Health")

        check(health.Check().status == 1, "the health service says SERVING")
        check(len(cluster.Status().nodes) == 3, "the cluster has three nodes")

        prefix = f"python/{unique}/".encode()
        values = {prefix + str(number).encode(): bytes([number]) * 10 for number in range(100)}
        for key, value in values.items():
            put = key_value.Put(key=key, value=value)
            check(put.applied and put.version > 0, f"put {key.decode()}") if key.endswith(b"/0") else None
        found = key_value.Get(key=prefix + b"7")
        check(found.found and found.value == values[prefix + b"7"], "get what was put")
        check(not key_value.Get(key=prefix + b"missing").found, "get what was not put")
        check(key_value.Increment(key=prefix + b"count", delta=-41).value == -41, "increment")
        check(key_value.Delete(key=prefix + b"count").deleted, "delete")

        pairs = [pair for page in key_value.Scan(prefix=prefix) for pair in page.pairs]
        check([(pair.key, pair.value) for pair in pairs] == sorted(values.items()), "scan, in key order")

        library = f"python-{unique}"
        source = b"""
            function greet(key, name) return "hello " .. name .. " from " .. key end
            function count(key, delta) return kv.incr(key, tonumber(delta)) end
        """
        uploaded = procedures.UploadLibrary(name=library, source=source).library
        check(list(uploaded.functions) == ["count", "greet"] and uploaded.version == 1, "upload a library")
        called = procedures.Call(procedure=f"{library}.greet", key=b"Lua", args=[b"Python"])
        check(called.result == b"hello Python from Lua", "call a procedure")
        for expected in (b"5", b"10"):
            called = procedures.Call(procedure=f"{library}.count", key=prefix + b"calls", args=[b"5"])
            check(called.result == expected, f"a procedure counts to {expected.decode()}")

        try:
            key_value.Put(key=b"", value=b"x")
            check(False, "an empty key is refused")
        except grpc.RpcError as error:
            check(error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"an empty key is refused: {error.details()}")
            trailers = dict(error.trailing_metadata())
            check(b"KEY_EMPTY" in trailers.get("grpc-status-details-bin", b""), "the error carries its reason")
    print("all checks passed")


if __name__ == "__main__":
    main(sys.argv[1])
