"""The page of ``rnn watch``, which asks for what it shows and draws it anew."""

from __future__ import annotations

import shlex

from rnn_lab.drawing import page
from rnn_lab.drawing.markup import escaped

STYLE = """
.state{font-weight:600;margin:.25rem 0}
.state::before{content:"";display:inline-block;width:.7em;height:.7em;margin-right:.5em;border-radius:50%;
background:var(--quiet)}
.running::before{background:var(--series-3)}
.gone{color:var(--quiet)}
.now{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:1rem 0}
.now div{background:var(--card);border-radius:6px;padding:.5rem .75rem}
.now dt{font-size:.8rem;color:var(--quiet)}
.now dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
.drawn text{font:12px system-ui,sans-serif;fill:var(--quiet)}
.drawn .axis{stroke:var(--quiet);fill:none}
.drawn .grid{stroke:var(--grid)}
.drawn .line{fill:none;stroke-width:2}
.drawn .thin{stroke-width:1}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;font-size:.85rem;list-style:none;margin:.25rem 0 0;padding:0}
.legend span{display:inline-block;width:1.2em;height:0;border-top:3px solid;margin-right:.4em;vertical-align:middle}
.samples pre{margin:.25rem 0 1rem}
.samples h3{margin:0}
"""


def html(name: str) -> str:
    """The page for a run of this name."""
    words, typed = escaped(name), escaped(shlex.quote(name))
    body = f"""<header>
<h1>{words}</h1>
<p class="state" role="status">Connecting ...</p>
<p class="question about"></p>
<noscript><p>This page needs JavaScript. Without it, rnn runs show {typed} says where the run stands.</p></noscript>
</header>
<main class="watch">
<dl class="now"></dl>
<div class="figures"></div>
<section class="samples" hidden><h2>Samples</h2><p class="note"></p><div></div></section>
</main>"""
    return page.document(f"{name}, watched", body, page.STYLE + STYLE, ("watch.js",), " connect-src 'self';")
