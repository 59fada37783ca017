"""The native engine's library: what it refuses, how it is chosen, built and found, and no sanitizer finds a fault."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest
from native_cases import SETTINGS, make, needs_library

import seqjax
from seqjax.engines import native
from seqjax.engines.native import build, layer, library
from seqjax.engines.native.forms import form_of

pytestmark = pytest.mark.one_in(12)


def arrays_of(name, units=5):
    """A call of one layer, its arrays, the shapes of its results, and of those that the backward pass takes besides."""
    cell, (params, carry, initial, xs), (d_carry, d_ys), _ = make(name, (2, 3, 4, units))
    kind = layer.Layer(cell, form_of(cell), False)
    given = layer.Given(params, carry, initial, xs, jnp.ones((3, 2), bool), jnp.ones((3, 2), bool))
    rows = 2 if kind.form.memory else 0
    shapes = [(3, 2, units), (2, units), (rows, units), (3, 2, kind.form.saved, 16), (3 if rows else 0, 2, units)]
    more = [jnp.zeros(shape) for shape in (shapes[0], shapes[3], shapes[0], shapes[1], shapes[2], shapes[4])]
    call = layer.Call((kind,), library.instruction_set())
    return call, [*layer._arrays(kind, given), *layer._flags(given)], shapes, more


@needs_library
@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("target", library.TARGETS)
def test_the_library_refuses_shapes_that_do_not_fit(target, name):
    """Of each argument and each result: another last size, or steps where there are none."""
    call, arrays, shapes, more = arrays_of(name)
    if target == library.TARGETS[1]:
        shapes, arrays = [a.shape for a in arrays[:9]], [*arrays, *more]

    def run(arrays, shapes):
        jax.block_until_ready(jax.ffi.ffi_call(target, layer._shapes(*shapes))(*arrays, **call.attributes))

    run(arrays, shapes)
    for place, array in enumerate(arrays):
        for other in (jnp.concatenate([array] * 2, axis=-1), jnp.zeros((7, *array.shape[1:]), array.dtype)):
            with pytest.raises(Exception, match="native engine: .* that does not fit"):
                run([*arrays[:place], other, *arrays[place + 1 :]], shapes)
        with pytest.raises(Exception, match="native engine: .* has another dtype"):
            run([*arrays[:place], array.astype(jnp.int32), *arrays[place + 1 :]], shapes)
    for place, shape in enumerate(shapes):
        for other in ((*shape[:-1], 7), (7, *shape[1:])):
            with pytest.raises(Exception, match="native engine: .* that does not fit"):
                run(arrays, [*shapes[:place], other, *shapes[place + 1 :]])
    for some, fault in ((arrays[:-1], ""), ([*arrays, arrays[0]], "more arrays")):
        with pytest.raises(Exception, match=f"native engine: .*{fault}"):
            run(some, shapes)


@needs_library
@pytest.mark.parametrize("wrong", [{"cells": "elman"}, {"cells": "gru,elman"}, {"instruction_set": "mmx"}])
def test_the_library_refuses_names_that_it_does_not_know(wrong):
    call, arrays, shapes, _ = arrays_of("gru")
    function = jax.ffi.ffi_call(library.TARGETS[0], layer._shapes(*shapes))
    with pytest.raises(Exception, match="no cell of that name|does not run the instruction set"):
        jax.block_until_ready(function(*arrays, **(call.attributes | wrong)))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (seqjax.conv_lstm(4, 3, (4,)), "it supports lstm, gru, mgu, rnn, indrnn, got conv_lstm"),
        (seqjax.lstm(4, layer_norm=True), "does not support lstm with layer_norm=True"),
        (seqjax.lstm(4, proj_size=3), "does not support lstm with proj_size=3"),
        (seqjax.lstm(4, activation="relu"), "does not support lstm with activation='relu'"),
        (seqjax.gru(4, gate_activation="hard_sigmoid"), "does not support gru with gate_activation='hard_sigmoid'"),
        (seqjax.gru(4, reset_after=False), "does not support gru with the reset before the product"),
        (seqjax.rnn(4, heads=2), "does not support rnn with heads=2"),
        (seqjax.rnn(4, "silu"), "rnn with tanh or relu, got activation 'silu'"),
        (seqjax.gru(4).replace(step=seqjax.gru(4).step), "this gru was modified after that"),
        (seqjax.lstm(4, dtype=jnp.bfloat16), "in float32, but the cell in bfloat16 and float32"),
        (seqjax.zoneout(seqjax.gru(4), 0.1), ", got zoneout"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_it_cannot_run_is_refused_with_the_reason(cell, reason):
    params = cell.init(jax.random.key(0), 3)
    assert reason in native.refusal(cell, params, jnp.zeros((5, 2, 3)), **SETTINGS)


def test_several_inputs_open_sizes_and_meshes_are_refused():
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    assert "a single input array" in native.refusal(cell, params, (xs, xs), **SETTINGS)
    open_batch = jax.ShapeDtypeStruct((3, *jax.export.symbolic_shape("b"), 4), jnp.float32)
    assert "jax.export" in native.refusal(cell, params, open_batch, **SETTINGS)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("data",))):
        assert "on a mesh" in native.refusal(cell, params, xs, **SETTINGS)


@pytest.mark.parametrize("name", ["gru", "mgu", "lstm"])
@pytest.mark.parametrize("options", [{"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}], ids=["dtype", "param_dtype"])
def test_narrow_cells_are_for_others_also_where_their_carry_is_wide(name, options):
    cell = getattr(seqjax, name)(4, **options)
    params, xs = cell.init(jax.random.key(0), 4), jnp.ones((2, 5, 4), jnp.bfloat16)
    assert "computes in float32" in native.refusal(cell, params, xs, **SETTINGS)
    assert seqjax.unroll(cell, params, xs)[1].dtype == jnp.bfloat16


@needs_library
def test_export_says_that_the_program_needs_the_library():
    cell, (params, carry, initial, xs), _, _ = make("gru", (2, 3, 4, 5))
    with pytest.raises(ValueError, match="seqjax_native_forward"):
        jax.export.export(jax.jit(lambda x: native.run(cell, params, carry, initial, x, **SETTINGS)))(xs)


@needs_library
def test_auto_takes_it_where_it_was_measured_to_win(monkeypatch):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    fast = library.instruction_set() != "portable"
    assert seqjax.explain(cell, params, xs)[0].engine == ("native" if fast else "fused")
    other = seqjax.lstm(5, layer_norm=True)
    assert seqjax.explain(other, other.init(jax.random.key(0), 4), xs)[0].engine == "fused"
    with monkeypatch.context() as several:
        several.setattr(jax, "device_count", lambda: 2)
        assert seqjax.explain(cell, params, xs)[0].engine == "fused"
    monkeypatch.setenv(library.CHOICE, "portable")
    assert seqjax.explain(cell, params, xs)[0].engine == "fused"


@needs_library
@pytest.mark.parametrize("asked", ["mmx", "avx512"])
def test_an_instruction_set_that_there_is_not(asked, monkeypatch):
    if library.runs(asked):
        pytest.skip(f"this processor runs {asked}")
    monkeypatch.setenv(library.CHOICE, asked)
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    assert library.CHOICE in native.refusal(cell, params, xs, **SETTINGS)


def test_it_was_built_where_it_could_have_been():
    """SEQJAX_WITHOUT_NATIVE=1 says that the library is left out on purpose."""
    if os.environ.get(library.WITHOUT) or build.find_compiler() is None:
        pytest.skip("no compiler, or the library is left out on purpose")
    assert library.missing() is None


def test_without_the_library_it_says_how_to_build_it(monkeypatch, tmp_path):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    for content, reason in ((None, "was not built"), (b"no library", "cannot be loaded")):
        monkeypatch.setattr(build, "LIBRARY", str(tmp_path / "absent.so"))
        if content:
            (tmp_path / "absent.so").write_bytes(content)
        library._load.cache_clear()
        found = native.refusal(cell, params, xs, **SETTINGS)
        assert reason in found and "python -m seqjax.engines.native" in found
    monkeypatch.undo()
    library._load.cache_clear()


@needs_library
def test_a_library_of_other_sources_is_not_used_and_said_once(monkeypatch):
    cell, (params, _, _, xs), _, _ = make("gru", (2, 3, 4, 5))
    monkeypatch.delenv(library.WITHOUT, raising=False)
    library._load.cache_clear()
    monkeypatch.setattr(build, "sources", lambda: "others")
    try:
        assert "different sources" in native.refusal(cell, params, xs, **SETTINGS)
        with pytest.warns(UserWarning, match="built from different sources: run `python -m seqjax.engines.native`"):
            assert seqjax.explain(cell, params, xs)[0].engine == "fused"
        with warnings.catch_warnings(action="error"):
            seqjax.explain(cell, params, xs)
            seqjax.explain(seqjax.lstm(5, layer_norm=True), seqjax.lstm(5, layer_norm=True).init(jax.random.key(0), 4), xs)
    finally:
        monkeypatch.undo()
        library._load.cache_clear()
        library.say_missing.cache_clear()


def test_without_a_compiler_building_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        build.build(tmp_path / "library.so")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="the compiler failed"):
        build.build(tmp_path / "library.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(build.find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_no_sanitizer_finds_a_fault(sanitizer, tmp_path):
    """The kernels alone, in a program without Python, over random cases of every cell and instruction set."""
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    source, objects, defines = build.HERE / "src", [], []
    for name in build.instruction_sets():
        options = build.kernel_flags(name)
        if name == "avx512" and not library.runs(name):  # the same tiles, compiled for this processor
            options, defines = [o for o in options if not o.startswith("-m")], ["-DANY_PROCESSOR"]
        objects.append(str(tmp_path / f"{name}.o"))
        subprocess.run([build.find_compiler(), *flags, *options, "-c", str(source / "kernels.cc"), "-o", objects[-1]], check=True)
    if not library.missing() and sys.platform == "linux":  # nothing but the table of kernels is visible to the linker
        listed = subprocess.run(["nm", "--defined-only", "-C", *objects], capture_output=True, text=True, check=True).stdout
        visible = [line for line in listed.splitlines() if len(line.split()) > 2 and line.split()[1] in "TWVuiDBR"]
        assert all("::kernels" in line or "asan" in line for line in visible), visible
    driver = pathlib.Path(__file__).with_name("native_driver.cc")
    program = str(tmp_path / "driver")
    command = [build.find_compiler(), *flags, *defines, "-I", str(source), str(driver), *objects, "-o", program, "-pthread"]
    subprocess.run(command, check=True)
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    assert "120 cases" in ran.stdout
