"""Pickles from strangers: none runs code, allocates what it declares or ends unexplained."""

import codecs
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from made_checkpoints import Call, archive, assert_refused, forbid_torch, legacy, pickled, tensor

HUGE = 10**15
EVIDENCE = "evidence"  # a folder that code in a file would make


def nested(container, levels):
    """Return containers in containers, as a pickle: pickling them would overflow the stack."""
    open_, close = {"list": (b"]", b"a"), "tuple": (b"", b"\x85"), "dict": (b"}K\0", b"s")}[
        container
    ]
    return b"\x80\x02}K\0" + open_ * levels + b")" + close * levels + b"s."


def deep_key():
    """Return a pickle of a dict whose key is a tuple in a tuple in a tuple ..."""
    return b"\x80\x02})" + b"\x85" * 200_000 + b"K\0s."


def endless_list():
    content = []
    content.append(content)
    return {"a": content}


def endless_dict():
    content = {}
    content["a"] = content
    return content


def doubled(times):
    """Return lists that unfold to 2^times values."""
    content = []
    for _ in range(times):
        content = [content, content]
    return {"a": content}


def hex_again(times):
    """Return bytes that are twice as long with each call."""
    content = Call(codecs.encode, "text", "latin1")
    for _ in range(times):
        content = Call(codecs.encode, content, "hex")
    return {"a": content}


def shadowed(**attributes):
    """Return an OrderedDict whose attributes are set."""
    return {"a": Call(OrderedDict, state=attributes)}


PICKLES = {
    "code": ({"a": Call(os.mkdir, EVIDENCE)}, "asks for 'posix.mkdir'|asks for 'nt.mkdir'"),
    "code in a list in a dict": ({"a": [{"b": (Call(os.mkdir, EVIDENCE),)}]}, "mkdir"),
    "code for a tensor": (
        {"a": Call(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (EVIDENCE,), {})},
        "asks for 'torch._tensor._rebuild_from_type_v2'",
    ),
    "code as an argument": ({"a": tensor(size=Call(os.mkdir, EVIDENCE))}, "mkdir"),
    "code in a key": ({Call(os.mkdir, EVIDENCE): 1}, "mkdir"),
    "eval": ({"a": Call(eval, "__import__('os').mkdir('evidence')")}, "'__builtin__.eval'"),
    "an allocation": ({"a": Call(torch.UntypedStorage, HUGE)}, "torch.storage.UntypedStorage"),
    "a class of tensors": ({"a": Call(torch.FloatTensor, HUGE)}, "torch.FloatTensor"),
    "a byte array": ({"a": Call(bytearray, 1 << 40)}, "bytearray"),
    "doubled bytes": (hex_again(40), "strange bytes"),
    "a called storage type": ({"a": Call(torch.FloatStorage, HUGE)}, "calls a value"),
    "a storage alone": ({"a": tensor().reduced[1][0]}, "odd values"),
    "a function alone": ({"a": torch._utils._rebuild_tensor_v2}, "odd values"),
    "a class alone": ({"a": OrderedDict}, "odd values"),
    "another size than that of the record": ({"a": tensor(num_values=4)}, "another size"),
    "a storage of a gigantic size": ({"a": tensor(num_values=HUGE)}, "another size"),
    "a missing record": ({"a": tensor(key="9")}, "another size"),
    "a path as a key": ({"a": tensor(key="../../version")}, "another size"),
    "two sizes": ({"a": tensor(), "b": tensor(num_values=2)}, "one storage in two sizes"),
    "two types": ({"a": tensor(), "b": tensor(kind=torch.IntStorage)}, "one storage in two sizes"),
    "a negative size": ({"a": tensor(num_values=-3)}, "storage without a size"),
    "a part of a storage": ({"a": tensor(rest=(("1", 0, 3),))}, "part of another one"),
    "a gigantic tensor": ({"a": tensor(size=(HUGE,))}, "larger than its numbers"),
    "one number too many": ({"a": tensor(size=(4,))}, "larger than its numbers"),
    "one step too far": ({"a": tensor(size=(2,), stride=(3,))}, "larger than its numbers"),
    "one offset too far": ({"a": tensor(offset=1)}, "larger than its numbers"),
    "an offset of nothing": ({"a": tensor(offset=4, size=(0,))}, "larger than its numbers"),
    "an expanded tensor": ({"a": tensor(size=(HUGE,), stride=(0,))}, "larger than its numbers"),
    "a little expanded": ({"a": tensor(size=((1 << 26) + 1, 2), stride=(0, 1))}, "larger than its"),
    "a negative step": ({"a": tensor(stride=(-1,), offset=2)}, "without a shape"),
    "a negative dimension": ({"a": tensor(size=(-3,))}, "without a shape"),
    "a negative offset": ({"a": tensor(offset=-1)}, "without a shape"),
    "dimensions without steps": ({"a": tensor(size=(3, 1))}, "without a shape"),
    "too many dimensions": ({"a": tensor(size=(1,) * 65, stride=(1,) * 65)}, "without a shape"),
    "a size that is a float": ({"a": tensor(size=(3.0,))}, "without a shape"),
    "shadowed methods": (shadowed(items=5), "sets attributes"),
    "versions that are no dict": (shadowed(_metadata=5), "no dict"),
    "versions of no dict": (shadowed(_metadata={"": 5}), "no dict"),
    "attributes of a list": (b"\x80\x02}K\0]}bs.", "sets attributes"),
    "attributes of a tensor": (
        {"a": Call(*tensor().reduced[:1], *tensor().reduced[1], state={"_metadata": {}})},
        r"sets attributes\)",
    ),
    "items of a tensor": (pickled([tensor(), "a", 1])[:-2] + b"s.", None),
    "items of a list": (b"\x80\x02]K\0K\0s.", "no dict"),
    "values of a tuple": (b"\x80\x02)K\0a.", "no list"),
    "more than one value": (b"\x80\x02}}.", "leaves something over"),
    "an open mark": (b"\x80\x02}(}.", None),
    "nothing": (b"", None),
    "only the end": (b"\x80\x02.", None),
    "protocol 3": (b"\x80\x03}.", "another protocol"),
    "protocol 4": (pickle.dumps({"a": 1}, protocol=4), "protocol"),
    "an unknown step": (b"\x80\x02\xff.", None),
    "a step of later protocols": (b"\x80\x02}K\0\x8f(K\1\x90s.", "plain values$"),  # a set
    "memo of nothing": (b"\x80\x02h\x05.", None),
    "text cut short": (b"\x80\x02X\xff\xff\xff\xff.", None),
    "a list in itself": (endless_list(), "too deeply"),
    "a dict in itself": (endless_dict(), "too deeply"),
    "lists of one list": (doubled(60), "more than 1,000,000 values"),
    "many lists of many": ({"a": [[[0] * 1000] * 1000] * 1000}, "more than 1,000,000 values"),
    "deep lists": (nested("list", 100_000), "too deeply"),
    "deep tuples": (nested("tuple", 100_000), "too deeply"),
    "deep dicts": (nested("dict", 100_000), "too deeply"),
    "a deep key": (deep_key(), "strange keys"),
    "a gigantic pickle": (b"\x80\x02}" + b"(0" * (5 << 20) + b".", "more than 8,388,608 bytes"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_strange_pickles(tmp_path, monkeypatch, name):
    forbid_torch(monkeypatch)
    monkeypatch.chdir(tmp_path)
    content, reason = PICKLES[name]
    assert_refused(tmp_path, archive(content), reason)
    assert_refused(tmp_path, legacy(content), None)
