"""A loop in machine code that runs a step and draws the next symbol from its scores, many times."""

from __future__ import annotations

from minigrad.compiled import jit
from minigrad.compiled.emitter import FUNCTIONS, Emitter

DRAWING, OVER = 1, 2
"""Values of ``sample``'s word ``state``, which is 0 before the start."""

LANES = 8
"""Numbers exponentiated at once, in double precision as in the Python version."""


def ir(dtype: str) -> str:
    """The LLVM text of ``sample``, for scores of type ``float`` or ``double``.

    ``void sample(ptr calls, i64 call_count, ptr copies, i64 copy_count, ptr index, ptr scores, i64 size, double
    temperature, ptr uniform, i64 count, ptr out, ptr work, ptr state)`` does the following ``count`` times: copies
    memory (``copies``: source, target and bytes of each), makes the calls (``calls``: a function, its pointer and five
    numbers each), and draws a symbol from the ``size`` scores divided by the temperature (the largest, if it is 0)
    with the next number of ``uniform``. The symbol goes to ``out`` and to ``index``, where the step reads it; it is -1
    if the scores are NaN, and then the loop ends. ``work`` has ``size`` doubles, rounded up to whole vectors. ``state``
    is a word that is set to DRAWING at the beginning and to OVER at the end.
    """
    wide, narrow = Emitter("double", LANES), Emitter("double", 1)
    lane_type = f"<{LANES} x {dtype}>"
    widened = "fpext float %m.y to double" if dtype == "float" else "fadd double %m.y, -0.0"
    vector = _exponential(wide, lane_type, dtype, "%w")
    single = _exponential(narrow, dtype, dtype, "%n")
    declarations = sorted(
        {*wide.declarations, *narrow.declarations, "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"}
    )
    parts = {"dtype": dtype, "lanes": LANES, "vector": vector, "single": single, "widened": widened}
    return "\n".join([*declarations, _TEXT.format(**parts, drawing=DRAWING, over=OVER)])


def _exponential(em: Emitter, loaded: str, dtype: str, prefix: str) -> str:
    """Lines that store exp((scores[i] - largest) / temperature) in ``work[i]``, from i = ``{prefix}i`` on."""
    em.line(f"{prefix}.p = getelementptr {dtype}, ptr %scores, i64 {prefix}i")
    em.line(f"{prefix}.x = load {loaded}, ptr {prefix}.p, align {4 if dtype == 'float' else 8}")
    x = f"{prefix}.x"
    if dtype == "float":
        x = em.assign(f"fpext {loaded} {x} to {em.type}")
    x = em.binary("fdiv", em.binary("fsub", x, em.splat("%largest")), em.splat("%temperature"))
    y = FUNCTIONS["exp"](em, [x])
    em.line(f"{prefix}.q = getelementptr double, ptr %work, i64 {prefix}i")
    em.line(f"store {em.type} {y}, ptr {prefix}.q, align 8")
    text = "\n".join(em.lines)
    return text.replace("%v", f"{prefix}.v")


_TEXT = """
define void @sample(ptr %calls, i64 %call_count, ptr %copies, i64 %copy_count, ptr %index, ptr %scores, i64 %size,
                    double %temperature, ptr %uniform, i64 %count, ptr %out, ptr %work,
                    ptr %state) {{
entry:
  store atomic i64 {drawing}, ptr %state release, align 8
  %nothing = icmp sle i64 %count, 0
  br i1 %nothing, label %end, label %next
next:
  %k = phi i64 [0, %entry], [%k1, %chosen]
  br label %copy
copy:
  %c = phi i64 [0, %next], [%c1, %copying]
  %c.more = icmp slt i64 %c, %copy_count
  br i1 %c.more, label %copying, label %call
copying:
  %c3 = mul i64 %c, 3
  %c.p = getelementptr i64, ptr %copies, i64 %c3
  %c.s = load ptr, ptr %c.p
  %c.q = getelementptr i64, ptr %c.p, i64 1
  %c.t = load ptr, ptr %c.q
  %c.r = getelementptr i64, ptr %c.p, i64 2
  %c.n = load i64, ptr %c.r
  call void @llvm.memcpy.p0.p0.i64(ptr %c.t, ptr %c.s, i64 %c.n, i1 false)
  %c1 = add i64 %c, 1
  br label %copy
call:
  %f = phi i64 [0, %copy], [%f1, %calling]
  %f.more = icmp slt i64 %f, %call_count
  br i1 %f.more, label %calling, label %choose
calling:
  %f7 = mul i64 %f, 7
  %f.p = getelementptr i64, ptr %calls, i64 %f7
  %f.f = load ptr, ptr %f.p
  %f.p1 = getelementptr i64, ptr %f.p, i64 1
  %f.a = load ptr, ptr %f.p1
  %f.p2 = getelementptr i64, ptr %f.p, i64 2
  %f.2 = load i64, ptr %f.p2
  %f.p3 = getelementptr i64, ptr %f.p, i64 3
  %f.3 = load i64, ptr %f.p3
  %f.p4 = getelementptr i64, ptr %f.p, i64 4
  %f.4 = load i64, ptr %f.p4
  %f.p5 = getelementptr i64, ptr %f.p, i64 5
  %f.5 = load i64, ptr %f.p5
  %f.p6 = getelementptr i64, ptr %f.p, i64 6
  %f.6 = load i64, ptr %f.p6
  call void %f.f(ptr %f.a, i64 %f.2, i64 %f.3, i64 %f.4, i64 %f.5, i64 %f.6)
  %f1 = add i64 %f, 1
  br label %call
choose:
  %m = phi i64 [0, %call], [%m1, %choose]
  %best = phi double [0xFFF0000000000000, %call], [%best1, %choose]
  %where = phi i64 [0, %call], [%where1, %choose]
  %m.p = getelementptr {dtype}, ptr %scores, i64 %m
  %m.y = load {dtype}, ptr %m.p
  %m.x = {widened}
  %m.gt = fcmp ogt double %m.x, %best
  %m.nan = fcmp uno double %m.x, %m.x
  %m.better = or i1 %m.gt, %m.nan
  %best1 = select i1 %m.better, double %m.x, double %best
  %where1 = select i1 %m.better, i64 %m, i64 %where
  %m1 = add i64 %m, 1
  %m.more = icmp slt i64 %m1, %size
  br i1 %m.more, label %choose, label %chose
chose:
  %largest = fadd double %best1, -0.0
  %cold = fcmp oeq double %temperature, 0.0
  %finite = fcmp ord double %largest, %largest
  br i1 %finite, label %able, label %unable
able:
  br i1 %cold, label %decided, label %vectors
vectors:
  %wi = phi i64 [0, %able], [%wi1, %vector]
  %wi1 = add i64 %wi, {lanes}
  %w.more = icmp sle i64 %wi1, %size
  br i1 %w.more, label %vector, label %singles
vector:
{vector}
  br label %vectors
singles:
  %ni = phi i64 [%wi, %vectors], [%ni1, %single]
  %ni1 = add i64 %ni, 1
  %n.more = icmp slt i64 %ni, %size
  br i1 %n.more, label %single, label %sums
single:
{single}
  br label %singles
sums:
  %s = phi i64 [0, %singles], [%s1, %sums]
  %total = phi double [0.0, %singles], [%total1, %sums]
  %s.p = getelementptr double, ptr %work, i64 %s
  %s.x = load double, ptr %s.p
  %total1 = fadd double %total, %s.x
  store double %total1, ptr %s.p
  %s1 = add i64 %s, 1
  %s.more = icmp slt i64 %s1, %size
  br i1 %s.more, label %sums, label %draw
draw:
  %u.p = getelementptr double, ptr %uniform, i64 %k
  %u = load double, ptr %u.p
  %mark = fmul double %u, %total1
  %positive = fcmp ogt double %total1, 0.0
  br i1 %positive, label %search, label %unable
search:
  %d = phi i64 [0, %draw], [%d1, %on]
  %d.p = getelementptr double, ptr %work, i64 %d
  %d.x = load double, ptr %d.p
  %d.found = fcmp ogt double %d.x, %mark
  %d1 = add i64 %d, 1
  %d.last = icmp sge i64 %d1, %size
  %d.stop = or i1 %d.found, %d.last
  br i1 %d.stop, label %decided, label %on
on:
  br label %search
decided:
  %symbol = phi i64 [%where1, %able], [%d, %search]
  br label %chosen
chosen:
  %o.p = getelementptr i64, ptr %out, i64 %k
  store i64 %symbol, ptr %o.p
  store i64 %symbol, ptr %index
  %k1 = add i64 %k, 1
  %k.more = icmp slt i64 %k1, %count
  br i1 %k.more, label %next, label %end
unable:
  %b.p = getelementptr i64, ptr %out, i64 %k
  store i64 -1, ptr %b.p
  br label %end
end:
  store atomic i64 {over}, ptr %state release, align 8
  ret void
}}
"""


def shared_ir(scalar: str, size: int, columns: int) -> str:
    """The LLVM text of a product of one row and a packed matrix that two threads share.

    ``use`` is called once with the address of ``gemm``. ``shared`` has the same signature: it computes the first half
    of the columns, and the second as well unless a thread in ``help`` has taken it, so it never waits for a thread that
    is not running. ``help`` takes the word ``state`` of a ``sample``, and ends with it, or if it does not start in
    time. One product at a time is shared.

    Args:
        scalar: ``float`` or ``double``.
        size: its size in bytes.
        columns: columns per panel of the packed matrix.
    """
    enter, leave, declarations = jit.flushing()  # as in the thread that it helps
    parts = {"scalar": scalar, "size": size, "columns": columns, "least": SHARED_FROM, "enter": enter, "leave": leave}
    return "\n".join([*declarations, _SHARED.format(**parts, drawing=DRAWING, patience=HELP_PATIENCE)])


SHARED_FROM = 65536
"""Elements of a matrix from which two threads are worth their synchronisation, a few hundred nanoseconds."""

HELP_PATIENCE = 10_000_000
"""Number of polls of a helper before it gives up: some hundredths of a second."""

_SHARED = """
@gemm = internal global ptr null
@issued = internal global i64 0, align 64
@claimed = internal global i64 0, align 64
@done = internal global i64 0, align 64
@job = internal global [8 x i64] zeroinitializer, align 64

define void @use(ptr %product) {{
  store ptr %product, ptr @gemm
  ret void
}}

define internal void @second_half() {{
  %product = load ptr, ptr @gemm
  %n = load i64, ptr @job
  %k.p = getelementptr i64, ptr @job, i64 1
  %k = load i64, ptr %k.p
  %a.p = getelementptr i64, ptr @job, i64 2
  %a = load ptr, ptr %a.p
  %b.p = getelementptr i64, ptr @job, i64 3
  %b = load ptr, ptr %b.p
  %c.p = getelementptr i64, ptr @job, i64 4
  %c = load ptr, ptr %c.p
  %more.p = getelementptr i64, ptr @job, i64 5
  %more.l = load i64, ptr %more.p
  %more = trunc i64 %more.l to i32
  call void %product(i64 1, i64 %n, i64 %k, ptr %a, i64 0, ptr %b, ptr %c, i64 0, i32 %more)
  ret void
}}

define void @shared(i64 %m, i64 %n, i64 %k, ptr %a, i64 %a_row, ptr %b, ptr %c, i64 %c_row, i32 %more) {{
entry:
  %product = load ptr, ptr @gemm
  %elements = mul i64 %n, %k
  %one = icmp eq i64 %m, 1
  %large = icmp sge i64 %elements, {least}
  %worth = and i1 %one, %large
  br i1 %worth, label %share, label %alone
alone:
  call void %product(i64 %m, i64 %n, i64 %k, ptr %a, i64 %a_row, ptr %b, ptr %c, i64 %c_row, i32 %more)
  ret void
share:
  %panels = udiv i64 %n, {columns}
  %half = udiv i64 %panels, 2
  %first = mul i64 %half, {columns}
  %rest = sub i64 %n, %first
  %skipped = mul i64 %first, %k
  %b2 = getelementptr {scalar}, ptr %b, i64 %skipped
  %c2 = getelementptr {scalar}, ptr %c, i64 %first
  store i64 %rest, ptr @job
  %k.p = getelementptr i64, ptr @job, i64 1
  store i64 %k, ptr %k.p
  %a.p = getelementptr i64, ptr @job, i64 2
  store ptr %a, ptr %a.p
  %b.p = getelementptr i64, ptr @job, i64 3
  store ptr %b2, ptr %b.p
  %c.p = getelementptr i64, ptr @job, i64 4
  store ptr %c2, ptr %c.p
  %more.p = getelementptr i64, ptr @job, i64 5
  %more.l = zext i32 %more to i64
  store i64 %more.l, ptr %more.p
  %before = load i64, ptr @issued
  %now = add i64 %before, 1
  store atomic i64 %now, ptr @issued release, align 8
  call void %product(i64 1, i64 %first, i64 %k, ptr %a, i64 %a_row, ptr %b, ptr %c, i64 %c_row, i32 %more)
  %pair = cmpxchg ptr @claimed, i64 %before, i64 %now acq_rel acquire
  %mine = extractvalue {{i64, i1}} %pair, 1
  br i1 %mine, label %both, label %wait
both:
  call void @second_half()
  ret void
wait:
  %ended = load atomic i64, ptr @done acquire, align 8
  %there = icmp eq i64 %ended, %now
  br i1 %there, label %end, label %wait
end:
  ret void
}}

define void @help(ptr %state) {{
entry:{enter}
  br label %early
early:
  %i = phi i64 [0, %entry], [%i1, %early]
  %begun = load atomic i64, ptr %state acquire, align 8
  %i1 = add i64 %i, 1
  %patient = icmp ult i64 %i1, {patience}
  %before = icmp eq i64 %begun, 0
  %wait = and i1 %before, %patient
  br i1 %wait, label %early, label %look
look:
  %last = phi i64 [0, %early], [%last, %idle], [%now, %missed], [%now, %did]
  %phase = load atomic i64, ptr %state acquire, align 8
  %drawing = icmp eq i64 %phase, {drawing}
  br i1 %drawing, label %ask, label %end
ask:
  %now = load atomic i64, ptr @issued acquire, align 8
  %old = icmp eq i64 %now, %last
  br i1 %old, label %idle, label %claim
idle:
  br label %look
claim:
  %previous = sub i64 %now, 1
  %pair = cmpxchg ptr @claimed, i64 %previous, i64 %now acq_rel acquire
  %mine = extractvalue {{i64, i1}} %pair, 1
  br i1 %mine, label %did, label %missed
missed:
  br label %look
did:
  call void @second_half()
  store atomic i64 %now, ptr @done release, align 8
  br label %look
end:{leave}
  ret void
}}
"""
