"""Caffe's NetParameter for the protobuf library: the oracle of what is read and written."""

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_FIELDS = {
    "BlobShape": [("dim", 1, "repeated int64")],
    "BlobProto": [
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("shape", 7, "BlobShape"),
        # Packed floats are encoded like bytes; read as bytes, they need no Python object each.
        ("data", 5, "bytes"),
    ],
    "V1LayerParameter": [("name", 4, "string"), ("blobs", 6, "repeated BlobProto")],
    "LayerParameter": [
        ("name", 1, "string"),
        ("type", 2, "string"),
        ("blobs", 7, "repeated BlobProto"),
    ],
    "NetParameter": [
        ("name", 1, "string"),
        ("layers", 2, "repeated V1LayerParameter"),
        ("layer", 100, "repeated LayerParameter"),
    ],
}


@cache
def net_parameter() -> type[Message]:
    """The message class of a whole `.caffemodel`."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/caffe.proto", package="tests.caffe", syntax="proto2"
    )
    for message_name, fields in _FIELDS.items():
        message = file.message_type.add(name=message_name)
        for name, number, declaration in fields:
            repeated = declaration.startswith("repeated ")
            kind = declaration.removeprefix("repeated ")
            field = message.field.add(name=name, number=number)
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _FIELDS:
                field.type = field_type.TYPE_MESSAGE
                field.type_name = f".{file.package}.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
                field.options.packed = repeated
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{file.package}.NetParameter")
    )
