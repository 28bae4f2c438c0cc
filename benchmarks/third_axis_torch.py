"""The cells of ``third_axis_cells.py`` in eager PyTorch, with the same parameters, as a practised user writes them.

What depends on inputs or the context only is computed before the loop for all steps at once, and the gates of an LSTM
are one product. A function takes the cell, whose options it reads, and tensors in the trees of the cell.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def affine(p, x):
    return F.linear(x, p["W"].T, p["b"])


def side_by_side(p, names):
    """The affine maps of these names as one."""
    return {key: torch.cat([p[name][key] for name in names], -1) for key in ("W", "b")}


def split_off(packed, *widths):
    """The rows of a packed matrix that multiply each part of its input."""
    return packed["W"].split(list(widths))


def mlstm(cell, p, carry, xs):
    C, n, m = carry["C"], carry["n"], carry["m"]
    T, B, _ = xs.shape
    width = cell.hidden_size // cell.heads
    q, k, v = affine(side_by_side(p, ("query", "key", "value")), xs).view(T, B, 3, cell.heads, width).unbind(2)
    k = k / width**0.5
    i, f = affine(p["input"], xs), F.logsigmoid(affine(p["forget"], xs))
    o = torch.sigmoid(affine(p["output"], xs))
    ys = []
    for q_t, k_t, v_t, i_t, f_t in zip(q.unbind(), k.unbind(), v.unbind(), i.unbind(), f.unbind(), strict=True):
        before = f_t + m
        m = torch.maximum(before, i_t)
        forget, write = torch.exp(before - m)[..., None], torch.exp(i_t - m)[..., None]
        C = forget[..., None] * C + (write * v_t)[..., :, None] * k_t[..., None, :]
        n = forget * n + write * k_t
        norm = torch.maximum((n * q_t).sum(-1).abs(), torch.exp(-m))
        ys.append((C @ q_t[..., None]).squeeze(-1) / norm[..., None])
    return o * torch.stack(ys).view(T, B, -1)


def fast_weights(cell, p, carry, xs):
    h, A = carry
    W, U = split_off(p["slow"], cell.hidden_size, cell.input_size)
    ys = []
    for x in (xs @ U + p["slow"]["b"]).unbind():
        A = cell.decay * A + cell.rate * (h[:, :, None] * h[:, None, :])
        z = torch.addmm(x, h, W)
        h = torch.relu(z)
        for _ in range(cell.inner):
            read = torch.bmm(A, h[:, :, None]).squeeze(-1)
            h = torch.relu(F.layer_norm(z + read, (cell.hidden_size,), p["gain"], p["bias"], 1e-5))
        ys.append(h)
    return torch.stack(ys)


def ntm(cell, p, carry, xs):
    h, c, M, r = carry["h"], carry["c"], carry["M"], carry["r"]
    w_write, w_read = carry["write"], carry["read"]
    W_x, W_r, W_h = split_off(p["controller"], cell.input_size, cell.width, cell.hidden_size)
    W = torch.cat([W_r, W_h])
    heads = side_by_side(p, ("write", "read", "erase", "add"))
    sizes = [cell.width + 6] * 2 + [cell.width] * 2

    def address(head, M, norms, w):
        k, beta, g, s, gamma = head.split([cell.width, 1, 1, 3, 1], 1)
        norm = norms * torch.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        content = torch.softmax(F.softplus(beta) * torch.bmm(M, k[:, :, None]).squeeze(-1) / norm, -1)
        w = torch.lerp(w, content, torch.sigmoid(g))
        shifted = torch.stack([torch.roll(w, j, 1) for j in (-1, 0, 1)], -1)
        w = torch.bmm(shifted, torch.softmax(s, -1)[:, :, None]).squeeze(-1)
        w = w ** (1 + F.softplus(gamma))
        return w / w.sum(-1, keepdim=True)

    hs, rs = [], []
    for x in (xs @ W_x + p["controller"]["b"]).unbind():
        i, f, o, new = torch.addmm(x, torch.cat([r, h], -1), W).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        write, read, erase, add = affine(heads, h).split(sizes, 1)
        norms = torch.sqrt((M * M).sum(-1) + 1e-6)
        w_write, w_read = address(write, M, norms, w_write), address(read, M, norms, w_read)
        erase, add = torch.sigmoid(erase), torch.tanh(add)
        M = M * (1 - w_write[:, :, None] * erase[:, None, :]) + w_write[:, :, None] * add[:, None, :]
        r = torch.bmm(w_read[:, None, :], M).squeeze(1)
        hs.append(h)
        rs.append(r)
    return torch.tanh(affine(p["output"], torch.cat([torch.stack(hs), torch.stack(rs)], -1)))


def stack_rnn(cell, p, carry, xs):
    h, s = carry
    B = xs.shape[1]
    W_h, W_x, W_s = split_off(p["hidden"], cell.hidden_size, cell.input_size, cell.stacks * cell.seen)
    W = torch.cat([W_h, W_s])
    out = side_by_side(p, ("action", "pushed"))
    ys = []
    for x in (xs @ W_x + p["hidden"]["b"]).unbind():
        top = s[:, :, : cell.seen].reshape(B, -1)
        h = torch.sigmoid(torch.addmm(x, torch.cat([h, top], -1), W))
        action, pushed = affine(out, h).split([cell.stacks * 3, cell.stacks], 1)
        push, pop, nothing = torch.softmax(action.view(B, cell.stacks, 3), -1)[..., None].unbind(2)
        down = torch.cat([torch.sigmoid(pushed)[..., None], s[..., :-1]], -1)
        s = push * down + pop * F.pad(s[..., 1:], (0, 1)) + nothing * s
        ys.append(h)
    return torch.stack(ys)


def lstmn(cell, p, carry, xs):
    hs, cs, attended = carry["h"], carry["c"], carry["attended"]
    gates = side_by_side(p, ("input", "forget", "output", "candidate"))
    W_h, W_x = split_off(gates, cell.hidden_size, cell.input_size)
    a = p["attention"]
    ys = []
    for x, query in zip((xs @ W_x + gates["b"]).unbind(), (xs @ a["W_x"]).unbind(), strict=True):
        query = torch.addmm(query, attended, a["W_a"])
        weights = torch.softmax(torch.tanh(hs @ a["W_h"] + query[:, None]) @ a["v"], -1)[:, None]
        attended, memory = torch.bmm(weights, hs).squeeze(1), torch.bmm(weights, cs).squeeze(1)
        i, f, o, new = torch.addmm(x, attended, W_h).chunk(4, 1)
        c = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        hs = torch.cat([hs[:, 1:], h[:, None]], 1)
        cs = torch.cat([cs[:, 1:], c[:, None]], 1)
        ys.append(h)
    return torch.stack(ys)


def conv_lstm(cell, p, carry, xs):
    h, c = (image.permute(0, 3, 1, 2) for image in carry)  # PyTorch's channels come first
    T, B, _ = xs.shape
    n = cell.side
    images = xs.view(T, B, n, n, -1).permute(0, 1, 4, 2, 3)
    gates = side_by_side(p, ("input", "forget", "output", "candidate"))
    kernel = gates["W"].view(3, 3, images.shape[2] + cell.channels, -1).permute(3, 2, 0, 1)
    of_input, of_state = kernel.split([images.shape[2], cell.channels], 1)
    p_i, p_f, p_o = (p[name]["p"].permute(2, 0, 1) for name in ("input", "forget", "output"))
    given = F.conv2d(images.flatten(0, 1), of_input, gates["b"], padding=1).view(T, B, -1, n, n)
    ys = []
    for x in given.unbind():
        i, f, o, new = (x + F.conv2d(h, of_state, padding=1)).chunk(4, 1)
        i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
        c = f * c + i * torch.tanh(new)
        h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
        ys.append(h)
    return torch.stack(ys).permute(0, 1, 3, 4, 2).flatten(2)


def delta_net(cell, p, W, xs):
    T, B, _ = xs.shape
    width = cell.hidden_size // cell.heads

    def features(x):
        r = torch.relu(torch.cat([x, -x], -1))
        r = r * torch.roll(r, 1, -1)
        return r / (r.sum(-1, keepdim=True) + 1e-3)

    q, k, v = affine(side_by_side(p, ("query", "key", "value")), xs).view(T, B, 3, cell.heads, width).unbind(2)
    q, k, rate = features(q), features(k), torch.sigmoid(affine(p["rate"], xs))[..., None]
    ys = []
    for q_t, k_t, v_t, rate_t in zip(q.unbind(), k.unbind(), v.unbind(), rate.unbind(), strict=True):
        old = (W @ k_t[..., None]).squeeze(-1)
        W = W + (rate_t * (v_t - old))[..., :, None] * k_t[..., None, :]
        ys.append((W @ q_t[..., None]).squeeze(-1))
    return torch.stack(ys).flatten(2)


def s6(cell, p, h, xs):
    u = F.silu(affine(p["input"], xs))
    delta = F.softplus(affine(p["delta"], u @ p["low"]))
    B, C = u @ p["B"], u @ p["C"]
    A = -torch.exp(p["log_A"])
    given = delta * u
    ys = []
    for delta_t, given_t, B_t, C_t in zip(delta.unbind(), given.unbind(), B.unbind(), C.unbind(), strict=True):
        h = torch.exp(delta_t[:, :, None] * A) * h + given_t[:, :, None] * B_t[:, None, :]
        ys.append((h @ C_t[:, :, None]).squeeze(-1))
    return torch.stack(ys) + p["D"] * u


def second_order(cell, p, h, xs):
    W = p["W"].flatten(0, 1)
    ys = []
    for x in xs.unbind():
        h = torch.sigmoid(torch.addmm(p["b"], (h[:, :, None] * x[:, None, :]).flatten(1), W))
        ys.append(h)
    return torch.stack(ys)


def bahdanau(cell, p, h, xs, context):
    a, outputs, mask = p["attention"], context["outputs"], context["mask"]
    keys = outputs @ a["W_s"]
    sizes = cell.hidden_size, cell.input_size, cell.hidden_size
    gates = side_by_side(p, ("update", "reset"))
    G_h, G_x, G_c = split_off(gates, *sizes)
    N_h, N_x, N_c = split_off(p["candidate"], *sizes)
    G = torch.cat([G_h, G_c])
    N = torch.cat([N_h, N_c])
    ys = []
    for g, n in zip((xs @ G_x + gates["b"]).unbind(), (xs @ N_x + p["candidate"]["b"]).unbind(), strict=True):
        e = torch.tanh((h @ a["W_h"])[:, None] + keys) @ a["v"]
        weights = torch.softmax(e.masked_fill(~mask, -1e9), -1)
        c = torch.bmm(weights[:, None], outputs).squeeze(1)
        z, r = torch.sigmoid(torch.addmm(g, torch.cat([h, c], -1), G)).chunk(2, 1)
        h = torch.lerp(h, torch.tanh(torch.addmm(n, torch.cat([r * h, c], -1), N)), z)
        ys.append(h)
    return torch.stack(ys)


def luong(cell, p, carry, xs, context):
    h, c, attended = carry
    outputs, mask = context["outputs"], context["mask"]
    gates = side_by_side(p, ("input", "forget", "output", "candidate"))
    W_h, W_x, W_a = split_off(gates, cell.hidden_size, cell.input_size, cell.hidden_size)
    W = torch.cat([W_h, W_a])
    ys = []
    for x in (xs @ W_x + gates["b"]).unbind():
        i, f, o, new = torch.addmm(x, torch.cat([h, attended], -1), W).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        e = torch.bmm(outputs, h[:, :, None]).squeeze(-1)
        weights = torch.softmax(e.masked_fill(~mask, -1e9), -1)
        read = torch.bmm(weights[:, None], outputs).squeeze(1)
        attended = torch.tanh(affine(p["attended"], torch.cat([read, h], -1)))
        ys.append(attended)
    return torch.stack(ys)


def draw_read(cell, p, carry, xs, context):
    h, c = carry
    image = context["image"]
    gates = side_by_side(p, ("input", "forget", "output", "candidate"))
    W_h, W_g, W_x = split_off(gates, cell.hidden_size, cell.filters**2, cell.input_size)
    W = torch.cat([W_h, W_g])
    offsets = torch.arange(1, cell.filters + 1).to(xs) - (cell.filters / 2 + 0.5)
    pixels = torch.arange(1, cell.side + 1).to(xs)
    ys = []
    for x in (xs @ W_x + gates["b"]).unbind():
        centres, variance, stride, intensity = affine(p["window"], h).split([2, 1, 1, 1], 1)
        stride = (cell.side - 1) / (cell.filters - 1) * torch.exp(stride)
        mu = ((cell.side + 1) / 2 * (centres + 1))[:, :, None] + (offsets * stride)[:, None]  # (B, 2, N)
        filters = torch.exp(-((pixels - mu[..., None]) ** 2) / (2 * torch.exp(variance))[:, :, None, None])
        F_x, F_y = (filters / (filters.sum(-1, keepdim=True) + 1e-4)).unbind(1)
        glimpse = torch.bmm(torch.bmm(F_y, image), F_x.transpose(1, 2))
        read = torch.exp(intensity) * glimpse.flatten(1)
        i, f, o, new = torch.addmm(x, torch.cat([h, read], -1), W).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        ys.append(h)
    return torch.stack(ys)
