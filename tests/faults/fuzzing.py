"""How readers are fuzzed: the same examples each time, and bytes damaged as disks do it."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

fuzzed = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BYTES = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("replace"), st.floats(0, 1), st.binary(max_size=40)),
    st.tuples(st.just("nothing but"), st.binary(max_size=40)),
)


def damage(content, kind, *how):
    if kind == "nothing but":
        return how[0]
    place = int(how[0] * len(content))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ (1 << how[1])]) + content[place + 1 :]
    return content[:place] + how[1] + content[place + len(how[1]) :]
