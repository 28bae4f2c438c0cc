"""Published cells with a third axis, and steps that read a context, written as docs/cells.md tells a plugin's author.

Matrix memories, stacks, attention, heads, convolutions, state spaces: nothing is flattened by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minigrad import affine, concat, layer_norm, relu, sigmoid, softmax, softplus, split
from minigrad.initializers import glorot_uniform, uniform, zeros
from rnn_cells import Cell


def dense(rng, inputs, outputs, bias=0.0):
    """``{"W", "b"}`` of an affine map onto another size than the hidden one."""
    return {"W": glorot_uniform(rng, (inputs, outputs)), "b": zeros(rng, (outputs,)) + np.float32(bias)}


@dataclass(frozen=True)
class MLSTM(Cell):
    """The mLSTM, an LSTM with a matrix memory per head (Beck et al. 2024, arXiv:2405.04517).

    q_t, k_t, v_t = W_q x_t + b_q, (W_k x_t + b_k) / sqrt(d), W_v x_t + b_v      per head, d units each
    i~_t = w_i x_t + b_i,   f~_t = w_f x_t + b_f,   o_t = sigmoid(W_o x_t + b_o)
    m_t = max(log sigmoid(f~_t) + m_{t-1}, i~_t)
    f_t = exp(log sigmoid(f~_t) + m_{t-1} - m_t),   i_t = exp(i~_t - m_t)
    C_t = f_t C_{t-1} + i_t v_t k_t^T
    n_t = f_t n_{t-1} + i_t k_t
    h_t = o_t * C_t q_t / max(|n_t^T q_t|, exp(-m_t))
    """

    heads: int = 4

    def init_params(self, rng):
        params = {name: self.dense(rng, self.input_size) for name in ("query", "key", "value", "output")}
        params["input"] = dense(rng, self.input_size, self.heads)
        params["forget"] = dense(rng, self.input_size, self.heads, bias=3.0)
        return params

    def init_carry(self, batch_size):
        width = self.hidden_size // self.heads
        shape = batch_size, self.heads
        return {
            "C": np.zeros((*shape, width, width), np.float32),
            "n": np.zeros((*shape, width), np.float32),
            "m": np.zeros(shape, np.float32),
        }

    def __call__(self, params, carry, x):
        width = self.hidden_size // self.heads
        q, k, v = (affine(params[name], x).reshape(-1, self.heads, width) for name in ("query", "key", "value"))
        k = k / width**0.5
        i = affine(params["input"], x)  # (B, heads)
        before = carry["m"] - softplus(-affine(params["forget"], x))
        m = np.maximum(before, i)
        forget, write = np.exp(before - m)[..., None], np.exp(i - m)[..., None]
        C = forget[..., None] * carry["C"] + np.einsum("bhi,bhj->bhij", write * v, k)
        n = forget * carry["n"] + write * k
        norm = np.maximum(np.abs(np.sum(n * q, axis=-1)), np.exp(-m))
        h = np.einsum("bhij,bhj->bhi", C, q) / norm[..., None]
        y = sigmoid(affine(params["output"], x)) * h.reshape(-1, self.hidden_size)
        return {"C": C, "n": n, "m": m}, y


@dataclass(frozen=True)
class FastWeights(Cell):
    """A basic network with fast weights (Ba et al. 2016, arXiv:1610.06258), which attends to its recent past.

    A_t = decay A_{t-1} + rate h_{t-1} h_{t-1}^T
    z_t = W [h_{t-1}, x_t] + b
    s_0 = relu(z_t),   s_{j+1} = relu(LN(z_t + A_t s_j))   for ``inner`` steps
    h_t = s_inner
    """

    decay: float = 0.95
    rate: float = 0.5
    inner: int = 1

    def init_params(self, rng):
        return {
            "slow": self.dense(rng),
            "gain": np.ones(self.hidden_size, np.float32),
            "bias": zeros(rng, (self.hidden_size,)),
        }

    def init_carry(self, batch_size):
        return super().init_carry(batch_size), np.zeros((batch_size, self.hidden_size, self.hidden_size), np.float32)

    def __call__(self, params, carry, x):
        h, A = carry
        A = self.decay * A + self.rate * (h[:, :, None] * h[:, None, :])
        z = affine(params["slow"], concat(h, x))
        s = relu(z)
        for _ in range(self.inner):
            s = relu(layer_norm(z + (A @ s[:, :, None])[:, :, 0], params["gain"], params["bias"]))
        return (s, A), s


@dataclass(frozen=True)
class NTM(Cell):
    """A neural Turing machine (Graves et al. 2014, arXiv:1410.5401): an LSTM with one write head and one read head.

        h_t, c_t = LSTM([x_t, r_{t-1}], h_{t-1}, c_{t-1})
        each head:  k, beta, g, s, gamma from h_t
            w_c = softmax_i(beta cos(k, M_i))             by content
            w_g = g w_c + (1 - g) w_{t-1}                 or by the last location
            w~_i = sum_j w_g[i - j] s_j,  j = -1, 0, 1    a circular shift
            w_t = w~^gamma / sum w~^gamma                 sharpened
        M_t = M_{t-1} * (1 - w_t^write e_t^T) + w_t^write a_t^T
        r_t = M_t^T w_t^read
        y_t = tanh(W_y [h_t, r_t] + b_y)

    Both heads look at M_{t-1} to find their place; the first location is where they start.
    """

    locations: int = 128
    width: int = 20

    def init_params(self, rng):
        head = self.width + 6  # k, beta, g, three shifts, gamma
        return {
            "controller": dense(rng, self.input_size + self.width + self.hidden_size, 4 * self.hidden_size),
            "write": dense(rng, self.hidden_size, head),
            "read": dense(rng, self.hidden_size, head),
            "erase": dense(rng, self.hidden_size, self.width),
            "add": dense(rng, self.hidden_size, self.width),
            "output": dense(rng, self.hidden_size + self.width, self.hidden_size),
        }

    def init_carry(self, batch_size):
        first = np.zeros((batch_size, self.locations), np.float32)
        first[:, 0] = 1
        return {
            "h": super().init_carry(batch_size),
            "c": super().init_carry(batch_size),
            "M": np.zeros((batch_size, self.locations, self.width), np.float32),
            "write": first,
            "read": first.copy(),
            "r": np.zeros((batch_size, self.width), np.float32),
        }

    def address(self, params, h, M, w):
        k, beta, g, s, gamma = split(affine(params, h), np.cumsum([self.width, 1, 1, 3]).tolist())
        norms = np.sqrt(np.sum(M * M, axis=-1) + 1e-6) * np.sqrt(np.sum(k * k, axis=-1, keepdims=True) + 1e-6)
        content = softmax(softplus(beta) * np.einsum("bnm,bm->bn", M, k) / norms)
        g = sigmoid(g)
        w = g * content + (1 - g) * w
        shifted = np.stack([np.roll(w, j, axis=1) for j in (-1, 0, 1)], axis=-1)  # (B, N, 3)
        w = np.einsum("bnj,bj->bn", shifted, softmax(s))
        w = w ** (1 + softplus(gamma))
        return w / np.sum(w, axis=-1, keepdims=True)

    def __call__(self, params, carry, x):
        M = carry["M"]
        i, f, o, new = split(affine(params["controller"], concat(x, carry["r"], carry["h"])), 4)
        c = sigmoid(f) * carry["c"] + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        write = self.address(params["write"], h, M, carry["write"])
        read = self.address(params["read"], h, M, carry["read"])
        erase, add = sigmoid(affine(params["erase"], h)), np.tanh(affine(params["add"], h))
        M = M * (1 - write[:, :, None] * erase[:, None, :]) + write[:, :, None] * add[:, None, :]
        r = np.einsum("bn,bnm->bm", read, M)
        y = np.tanh(affine(params["output"], concat(h, r)))
        return {"h": h, "c": c, "M": M, "write": write, "read": read, "r": r}, y


@dataclass(frozen=True)
class StackRNN(Cell):
    """A basic network with differentiable stacks (Joulin and Mikolov 2015, arXiv:1503.01007).

        h_t = sigmoid(W [h_{t-1}, x_t, top of the stacks] + b)
        a_t = softmax(A h_t)                          per stack: push, pop, do nothing
        s_t[0] = a_push sigmoid(D h_t) + a_pop s_{t-1}[1] + a_nothing s_{t-1}[0]
        s_t[i] = a_push s_{t-1}[i-1] + a_pop s_{t-1}[i+1] + a_nothing s_{t-1}[i]

    ``seen`` is how many elements of each stack the hidden layer reads.
    """

    stacks: int = 10
    depth: int = 64
    seen: int = 2

    def init_params(self, rng):
        return {
            "hidden": self.dense(rng, self.hidden_size + self.input_size + self.stacks * self.seen),
            "action": dense(rng, self.hidden_size, self.stacks * 3),
            "pushed": dense(rng, self.hidden_size, self.stacks),
        }

    def init_carry(self, batch_size):
        return super().init_carry(batch_size), np.zeros((batch_size, self.stacks, self.depth), np.float32)

    def __call__(self, params, carry, x):
        h, s = carry
        top = s[:, :, : self.seen].reshape(-1, self.stacks * self.seen)
        h = sigmoid(affine(params["hidden"], concat(h, x, top)))
        a = softmax(affine(params["action"], h).reshape(-1, self.stacks, 3))
        push, pop, nothing = a[..., 0:1], a[..., 1:2], a[..., 2:3]  # (B, stacks, 1)
        value = sigmoid(affine(params["pushed"], h))[..., None]
        down = np.concatenate([value, s[..., :-1]], axis=-1)
        up = np.pad(s[..., 1:], ((0, 0), (0, 0), (0, 1)))
        s = push * down + pop * up + nothing * s
        return (h, s), h


@dataclass(frozen=True)
class LSTMN(Cell):
    """An LSTM that attends to its own history (Cheng et al. 2016, arXiv:1601.06733), here its last ``window`` states.

        e_i = v^T tanh(W_h h_i + W_x x_t + W_a h~_{t-1})
        a = softmax(e),   h~_t = sum_i a_i h_i,   c~_t = sum_i a_i c_i
        i, f, o, c^ = sigmoid, sigmoid, sigmoid, tanh of W [h~_t, x_t] + b
        c_t = f * c~_t + i * c^,   h_t = o * tanh(c_t)

    Before there are that many states, the missing ones are zeros.
    """

    window: int = 16

    def init_params(self, rng):
        square = self.hidden_size, self.hidden_size
        return {
            "attention": {
                "W_h": glorot_uniform(rng, square),
                "W_x": glorot_uniform(rng, (self.input_size, self.hidden_size)),
                "W_a": glorot_uniform(rng, square),
                "v": uniform(rng, (self.hidden_size,), scale=self.hidden_size**-0.5),
            },
            "input": self.dense(rng),
            "forget": self.dense(rng, bias=1.0),
            "output": self.dense(rng),
            "candidate": self.dense(rng),
        }

    def init_carry(self, batch_size):
        history = batch_size, self.window, self.hidden_size
        return {
            "h": np.zeros(history, np.float32),
            "c": np.zeros(history, np.float32),
            "attended": super().init_carry(batch_size),
        }

    def __call__(self, params, carry, x):
        p, hs, cs = params["attention"], carry["h"], carry["c"]
        query = x @ p["W_x"] + carry["attended"] @ p["W_a"]
        a = softmax(np.tanh(hs @ p["W_h"] + query[:, None]) @ p["v"])  # (B, window)
        attended, memory = np.einsum("bn,bnh->bh", a, hs), np.einsum("bn,bnh->bh", a, cs)
        hx = concat(attended, x)
        i, f, o = (sigmoid(affine(params[name], hx)) for name in ("input", "forget", "output"))
        c = f * memory + i * np.tanh(affine(params["candidate"], hx))
        h = o * np.tanh(c)
        hs = np.concatenate([hs[:, 1:], h[:, None]], axis=1)
        cs = np.concatenate([cs[:, 1:], c[:, None]], axis=1)
        return {"h": hs, "c": cs, "attended": attended}, h


@dataclass(frozen=True)
class ConvLSTM(Cell):
    """An LSTM over images, with convolutions in place of products (Shi et al. 2015, arXiv:1506.04214).

        i_t = sigmoid(W_i * [X_t, H_{t-1}] + p_i o C_{t-1} + b_i)          *: 3x3 convolution, o: by element
        f_t = sigmoid(W_f * [X_t, H_{t-1}] + p_f o C_{t-1} + b_f)
        C_t = f_t o C_{t-1} + i_t o tanh(W_c * [X_t, H_{t-1}] + b_c)
        o_t = sigmoid(W_o * [X_t, H_{t-1}] + p_o o C_t + b_o)
        H_t = o_t o tanh(C_t)

    An image of ``side`` x ``side`` pixels comes as one vector, channels last, and so leaves the hidden image.
    """

    side: int = 8

    @property
    def channels(self):
        return self.hidden_size // self.side**2

    def init_params(self, rng):
        pixels = self.side, self.side
        seen = 9 * (self.input_size // self.side**2 + self.channels)
        params = {name: dense(rng, seen, self.channels) for name in ("input", "forget", "output", "candidate")}
        for name in ("input", "forget", "output"):
            params[name]["p"] = uniform(rng, (*pixels, self.channels))
        return params

    def init_carry(self, batch_size):
        shape = batch_size, self.side, self.side, self.channels
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def __call__(self, params, carry, x):
        h, c = carry
        n = self.side
        image = np.pad(concat(x.reshape(-1, n, n, self.input_size // n**2), h), ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = concat(*(image[:, i : i + n, j : j + n] for i in range(3) for j in range(3)))  # (B, n, n, 9 channels)
        i = sigmoid(affine(params["input"], patches) + params["input"]["p"] * c)
        f = sigmoid(affine(params["forget"], patches) + params["forget"]["p"] * c)
        c = f * c + i * np.tanh(affine(params["candidate"], patches))
        o = sigmoid(affine(params["output"], patches) + params["output"]["p"] * c)
        h = o * np.tanh(c)
        return (h, c), h.reshape(-1, self.hidden_size)


@dataclass(frozen=True)
class DeltaNet(Cell):
    """A linear transformer that corrects its fast weights by the delta rule (Schlag et al. 2021, arXiv:2102.11174).

    q_t, k_t, v_t = W_q x_t, W_k x_t, W_v x_t      per head
    b_t = sigmoid(w_b x_t + b_b)
    phi(k) = r * roll(r, 1) / sum,   r = relu([k, -k])         the paper's DPFP, nu = 1
    W_t = W_{t-1} + b_t (v_t - W_{t-1} phi(k_t)) phi(k_t)^T
    y_t = W_t phi(q_t)
    """

    heads: int = 4

    def init_params(self, rng):
        params = {name: self.dense(rng, self.input_size) for name in ("query", "key", "value")}
        params["rate"] = dense(rng, self.input_size, self.heads)
        return params

    def init_carry(self, batch_size):
        width = self.hidden_size // self.heads
        return np.zeros((batch_size, self.heads, width, 2 * width), np.float32)

    def features(self, x):
        r = relu(concat(x, -x))
        r = r * np.roll(r, 1, axis=-1)
        return r / (np.sum(r, axis=-1, keepdims=True) + 1e-3)

    def __call__(self, params, W, x):
        width = self.hidden_size // self.heads
        q, k, v = (affine(params[name], x).reshape(-1, self.heads, width) for name in ("query", "key", "value"))
        q, k = self.features(q), self.features(k)
        rate = sigmoid(affine(params["rate"], x))[:, :, None]
        old = np.einsum("bhvk,bhk->bhv", W, k)
        W = W + np.einsum("bhv,bhk->bhvk", rate * (v - old), k)
        y = np.einsum("bhvk,bhk->bhv", W, q)
        return W, y.reshape(-1, self.hidden_size)


@dataclass(frozen=True)
class S6(Cell):
    """Mamba's selective state space (Gu and Dao 2023, arXiv:2312.00752), with its projection of the input.

    u_t = silu(W_u x_t + b_u)
    delta_t = softplus(W_2 W_1 u_t + b),   B_t = W_B u_t,   C_t = W_C u_t
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t          (H, states), A = -exp(log_A)
    y_t = C_t h_t + D u_t
    """

    states: int = 16
    rank: int = 8

    def init_params(self, rng):
        H = self.hidden_size
        return {
            "input": self.dense(rng, self.input_size),
            "B": glorot_uniform(rng, (H, self.states)),
            "C": glorot_uniform(rng, (H, self.states)),
            "low": glorot_uniform(rng, (H, self.rank)),
            "delta": dense(rng, self.rank, H, bias=-3.0),
            "log_A": np.log(np.tile(np.arange(1, self.states + 1, dtype=np.float32), (H, 1))),
            "D": np.ones(H, np.float32),
        }

    def init_carry(self, batch_size):
        return np.zeros((batch_size, self.hidden_size, self.states), np.float32)

    def __call__(self, params, h, x):
        u = affine(params["input"], x)
        u = u * sigmoid(u)
        delta = softplus(affine(params["delta"], u @ params["low"]))
        B, C = u @ params["B"], u @ params["C"]
        keep = np.exp(delta[:, :, None] * -np.exp(params["log_A"]))
        h = keep * h + np.einsum("bh,bn->bhn", delta * u, B)
        y = np.einsum("bhn,bn->bh", h, C) + params["D"] * u
        return h, y


@dataclass(frozen=True)
class SecondOrder(Cell):
    """A second-order network, whose inputs choose its transition (Goudreau et al. 1994, IEEE Trans. Neural Networks 5).

    h_t[i] = sigmoid(sum_jk W[j, k, i] h_{t-1}[j] x_t[k] + b[i])
    """

    def init_params(self, rng):
        H, inputs = self.hidden_size, self.input_size
        return {"W": uniform(rng, (H, inputs, H), scale=(3 / (H * inputs)) ** 0.5), "b": zeros(rng, (H,))}

    def __call__(self, params, h, x):
        h = sigmoid(np.einsum("bj,bk,jki->bi", h, x, params["W"]) + params["b"])
        return h, h


# Steps with a context


@dataclass(frozen=True)
class Decoder(Cell):
    """The base of decoders that attend to an encoder's outputs: context ``outputs`` (B, S, H) and ``mask`` (B, S)."""

    source: int = 40

    def init_context(self, rng, batch_size):
        """Outputs of an encoder, and which of them belong to the sentence."""
        lengths = rng.integers(self.source // 2, self.source + 1, batch_size)
        return {
            "outputs": rng.standard_normal((batch_size, self.source, self.hidden_size), np.float32),
            "mask": np.arange(self.source) < lengths[:, None],
        }


@dataclass(frozen=True)
class Bahdanau(Decoder):
    """A GRU that attends to an encoder's outputs s_i by a small network (Bahdanau et al. 2015, arXiv:1409.0473).

    e_i = v^T tanh(W_h h_{t-1} + W_s s_i),   a = softmax(e),   c_t = sum_i a_i s_i
    z_t, r_t = sigmoid(W_z [h_{t-1}, x_t, c_t] + b_z), sigmoid(W_r [h_{t-1}, x_t, c_t] + b_r)
    h_t = (1 - z_t) * h_{t-1} + z_t * tanh(W [r_t * h_{t-1}, x_t, c_t] + b)
    """

    def init_params(self, rng):
        H = self.hidden_size
        return {
            "attention": {
                "W_h": glorot_uniform(rng, (H, H)),
                "W_s": glorot_uniform(rng, (H, H)),
                "v": uniform(rng, (H,), scale=H**-0.5),
            }
        } | {name: self.dense(rng, 2 * H + self.input_size) for name in ("update", "reset", "candidate")}

    def __call__(self, params, h, x, context):
        p, outputs = params["attention"], context["outputs"]
        e = np.tanh((h @ p["W_h"])[:, None] + outputs @ p["W_s"]) @ p["v"]
        a = softmax(np.where(context["mask"], e, -1e9))
        c = np.einsum("bs,bsh->bh", a, outputs)
        z = sigmoid(affine(params["update"], concat(h, x, c)))
        r = sigmoid(affine(params["reset"], concat(h, x, c)))
        h = (1 - z) * h + z * np.tanh(affine(params["candidate"], concat(r * h, x, c)))
        return h, h


@dataclass(frozen=True)
class Luong(Decoder):
    """An LSTM that attends to an encoder's outputs s_i by products (Luong et al. 2015, arXiv:1508.04025).

    h_t, c_t = LSTM([x_t, h~_{t-1}], h_{t-1}, c_{t-1})
    a = softmax(s_i^T h_t),   h~_t = tanh(W [sum_i a_i s_i, h_t] + b)
    """

    def init_params(self, rng):
        H = self.hidden_size
        names = ("input", "forget", "output", "candidate")
        params = {name: self.dense(rng, 2 * H + self.input_size, bias=float(name == "forget")) for name in names}
        return params | {"attended": self.dense(rng, 2 * H)}

    def init_carry(self, batch_size):
        return tuple(super(Luong, self).init_carry(batch_size) for _ in range(3))

    def __call__(self, params, carry, x, context):
        h, c, attended = carry
        hx = concat(h, x, attended)
        i, f, o = (sigmoid(affine(params[name], hx)) for name in ("input", "forget", "output"))
        c = f * c + i * np.tanh(affine(params["candidate"], hx))
        h = o * np.tanh(c)
        e = np.einsum("bsh,bh->bs", context["outputs"], h)
        a = softmax(np.where(context["mask"], e, -1e9))
        attended = np.tanh(affine(params["attended"], concat(np.einsum("bs,bsh->bh", a, context["outputs"]), h)))
        return (h, c, attended), attended


@dataclass(frozen=True)
class DrawRead(Cell):
    """DRAW's selective read (Gregor et al. 2015, arXiv:1502.04623): an LSTM looks at an image through Gaussian filters.

        g~_X, g~_Y, log s2, log d~, log gamma = W_w h_{t-1} + b_w
        g_X = (A + 1) / 2 (g~_X + 1),   g_Y likewise,   d = (A - 1) / (N - 1) d~
        mu_X[i] = g_X + (i - N / 2 - 0.5) d,   i = 1..N
        F_X[i, a] = exp(-(a - mu_X[i])^2 / (2 s2)) / Z_i,   a = 1..A
        h_t, c_t = LSTM([gamma F_Y image F_X^T, x_t], h_{t-1}, c_{t-1})

    The context is the image, (B, A, A).
    """

    side: int = 28
    filters: int = 12

    def init_context(self, rng, batch_size):
        return {"image": rng.random((batch_size, self.side, self.side), np.float32)}

    def init_params(self, rng):
        seen = self.hidden_size + self.filters**2 + self.input_size
        names = ("input", "forget", "output", "candidate")
        params = {name: self.dense(rng, seen, bias=float(name == "forget")) for name in names}
        return params | {"window": dense(rng, self.hidden_size, 5)}

    def init_carry(self, batch_size):
        return super().init_carry(batch_size), super().init_carry(batch_size)

    def filterbank(self, centre, stride, variance):
        """(B, 1) each -> (B, N, A)."""
        offsets = np.arange(1, self.filters + 1, dtype=centre.dtype) - (self.filters / 2 + 0.5)
        mu = (self.side + 1) / 2 * (centre + 1) + offsets * stride  # (B, N)
        distance = np.arange(1, self.side + 1, dtype=centre.dtype) - mu[:, :, None]
        F = np.exp(-(distance**2) / (2 * variance[:, :, None]))
        return F / (np.sum(F, axis=-1, keepdims=True) + 1e-4)

    def __call__(self, params, carry, x, context):
        h, c = carry
        centre_x, centre_y, variance, stride, intensity = split(affine(params["window"], h), 5)  # (B, 1) each
        stride = (self.side - 1) / (self.filters - 1) * np.exp(stride)
        F_x, F_y = (self.filterbank(centre, stride, np.exp(variance)) for centre in (centre_x, centre_y))
        glimpse = F_y @ context["image"] @ np.swapaxes(F_x, 1, 2)  # (B, N, N)
        seen = concat(h, np.exp(intensity) * glimpse.reshape(-1, self.filters**2), x)
        i, f, o = (sigmoid(affine(params[name], seen)) for name in ("input", "forget", "output"))
        c = f * c + i * np.tanh(affine(params["candidate"], seen))
        h = o * np.tanh(c)
        return (h, c), h
