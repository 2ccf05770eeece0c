"""Three hints for each exercise: what to think of, the derivation, and nearly the answer.

z are the student's logits, u the teacher's, q and p their softmaxes at temperature T; sums run over the last axis.
"""

HINTS: dict[str, tuple[str, str, str]] = {
    "softmax": (
        "exp(1000) overflows, exp(1000 - 1000) does not: the same number added to all logits of a row changes nothing.",
        "Subtract each row's largest entry, divide by T, exponentiate, divide by the sum. For the pullback: dp_i/dz_j "
        "= p_i (1[i = j] - p_j) / T.",
        "dz = p * (dp - (p * dp).sum(-1, keepdims=True)) / T. Entries of -inf need nothing more: exp(-inf) is 0.",
    ),
    "log_softmax": (
        "The logarithm of a softmax is -inf wherever that underflows: never leave log space.",
        "After the shift by the largest entry, logp = z/T - log(sum(exp(z/T))). dlogp_i/dz_j = (1[i = j] - p_j) / T.",
        "dz = (dlogp - exp(logp) * dlogp.sum(-1, keepdims=True)) / T. Where logp is -inf, set dlogp to 0 first.",
    ),
    "linear": (
        "Make rows of all leading axes: x.reshape(-1, I). Each gradient is then one product, and its shape says which.",
        "dx (N, I) comes from dy (N, O) and W (I, O); dW (I, O) from x and dy; dbias (O,) from dy alone.",
        "dx = dy @ W.T, dW = x.T @ dy, dbias = dy.sum(axis=0), all on rows; give dx the shape of x again.",
    ),
    "embedding": (
        "Forwards it is one look-up. Backwards, tokens with the same id meet in one row of the table.",
        "dtable begins as zeros of the table's shape, and each row of dy is added at its id. dtable[ids] += dy is not "
        "that: of ids that come twice it keeps one.",
        "np.add.at(dtable, ids.reshape(-1), dy.reshape(-1, C)).",
    ),
    "gelu": (
        "GPT-2's form has a tanh, not erf. y is x times a gate that depends on x: the product rule gives two terms.",
        "gate = (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3). tanh has the slope 1 - tanh^2, and du/dx = "
        "sqrt(2/pi) (1 + 3 * 0.044715 x^2).",
        "dx = dy * (gate + x * (1 - tanh(u)**2) / 2 * du).",
    ),
    "layer_norm": (
        "Mean and variance are those of a row, over the last axis, the variance with the divisor C. Both depend on "
        "every entry of the row, and so does each entry of dx.",
        "normed = (x - mean) rstd with rstd = 1 / sqrt(var + eps). dgain and dbias are the sums of dy normed and of "
        "dy over all rows. For dx begin with g = dy gain, and differentiate rstd, too.",
        "dx = rstd * (g - mean(g) - normed * mean(g * normed)), each mean over the last axis.",
    ),
    "attention": (
        "Scores q k^T / sqrt(D), (B, H, T, T); -inf where the key comes after the query; a softmax; times v.",
        "Backwards: dv = weights^T dy, dweights = dy v^T, then through the softmax as in your own pullback, then to q "
        "and k, with the factor 1 / sqrt(D) once more. The causal mask needs nothing: its weights are 0.",
        "ds = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) / sqrt(D); dq = ds @ k; dk = "
        "ds.swapaxes(-1, -2) @ q.",
    ),
    "self_attention": (
        "linear, attention, linear: you have all three. New are only the shapes between them.",
        "The 3 C columns are queries, keys, values; each of these is H heads of C / H neighbouring columns: split "
        "into (B, T, 3, H, D) and bring 3 and H to the front. The way back merges (B, H, T, D) into (B, T, C).",
        "q, k, v = qkv.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4); backwards np.stack((dq, dk, dv)).transpose(1, "
        "3, 0, 2, 4).reshape(B, T, 3 * C).",
    ),
    "mlp": (
        "linear, gelu, linear: call your own three functions, and keep their pullbacks.",
        "Backwards the same three in the opposite order; each linear gives a gradient for its input, weight and bias.",
        "dh, dproj_weight, dproj_bias = vjp_proj(dy); dx, dfc_weight, dfc_bias = vjp_fc(vjp_gelu(dh)); return them in "
        "the order of the arguments.",
    ),
    "block": (
        "Two residual branches: h = x + self_attention(layer_norm(x)), y = h + mlp(layer_norm(h)). A sum hands its "
        "gradient on to both of its terms.",
        "Backwards from y: dh is dy plus what comes back through mlp and its norm; dx is dh plus what comes back "
        "through attention and its norm.",
        "One gradient for each argument, in their order. A dx that is far too small has lost one of the two `+ dy`, "
        "`+ dh`.",
    ),
    "cross_entropy": (
        "-log softmax(z)[label] = log(sum(exp(z))) - z[label], largest entry subtracted. A label of -100 and a mask "
        "that is False mean the same: the token is neither above nor below the fraction bar.",
        "The gradient of a token is softmax(z) - onehot(label), divided by the number of tokens that count in the "
        "whole batch (for the mean). Multiply by the w that the pullback is given.",
        "Compute on z[counted] and labels[counted] alone, so that -100 is never an index and no 0 * inf arises; put "
        "the gradients back into an array of zeros.",
    ),
    "linear_cross_entropy": (
        "logits = hidden weight^T, with weight (V, C), then cross_entropy: two functions that you have.",
        "With dlogits from cross_entropy's pullback: dhidden = dlogits weight and dweight = dlogits^T hidden, on rows.",
        "To save memory go over blocks of tokens with the sum, add up, and divide by the number of tokens that count "
        "once, at the end. A mean of the blocks' means is another number.",
    ),
    "soft_cross_entropy": (
        "-sum(p log q): the teacher's probabilities, the student's logarithms, both at temperature T. There is no log "
        "p.",
        "Each token's gradient is (q - p) / T: the same as forward_kl's, since the teacher's entropy is a constant.",
        "Where p = 0 the term is 0, also where log q is -inf: np.where(p > 0, p * logq, 0). Tokens that do not count "
        "are best left out before anything is computed.",
    ),
    "forward_kl": (
        "KL(p || q) = sum(p (log p - log q)): the teacher weighs, and stands first. Both softmaxes at temperature T.",
        "T dD/dz = q - p, so the gradient carries 1/T. There is no T^2 here, that belongs to distillation_loss. The "
        "mean is over the tokens that count.",
        "Take both log_softmaxes; where p = 0 the term is 0. Compute on the tokens that count alone, put the "
        "gradients back into zeros, and multiply by w over their number.",
    ),
    "reverse_kl": (
        "KL(q || p) = sum(q (log q - log p)): now the weights depend on z as well as the logarithm.",
        "dD/dq = log q - log p + 1, and through a softmax any slope g becomes q (g - sum(q g)) / T, in which the 1 "
        "cancels.",
        "T dz = q * (logq - logp - KL). Where q = 0 term and gradient are 0: do not multiply 0 by -inf.",
    ),
    "symmetric_kl": (
        "A weighted sum of two functions that you have; its pullback is the weighted sum of theirs.",
        "`weight` belongs to KL(p || q), 1 - weight to KL(q || p).",
        "At a weight of 0 or 1 leave the other one out: where it is inf, 0 * inf would be NaN.",
    ),
    "total_variation": (
        "Half the sum of |p - q|: at most 1, whatever the logits.",
        "Its slope in q is sign(q - p) / 2; through the softmax a slope g becomes q (g - sum(q g)) / T.",
        "np.sign is 0 where p and q meet, as it is wanted. Nothing else needs care: there is no logarithm.",
    ),
    "js": (
        "KL of p and of q to their mean m = (p + q) / 2, half of each: finite wherever one of them is 0.",
        "T dz = q (log(q/m) - KL(q || m)) / 2: that m depends on q, too, cancels.",
        "log m = np.logaddexp(logp, logq) - log(2). Where p or q is 0, its own term is 0.",
    ),
    "generalized_jsd": (
        "beta weighs the teacher twice: in m = beta p + (1 - beta) q, and in front of KL(p || m).",
        "T dz = (1 - beta) q (log(q/m) - KL(q || m)).",
        "log m = np.logaddexp(log(beta) + logp, log(1 - beta) + logq). scaled=True divides by beta (1 - beta): at "
        "beta = 0 that is KL(p || q), at beta = 1 KL(q || p).",
    ),
    "skew_forward_kl": (
        "KL(p || m) with m = alpha p + (1 - alpha) q: alpha is the teacher's share, so p/m is at most 1/alpha.",
        "The slope in q is g = -(1 - alpha) p/m; through the softmax it becomes q (g - sum(q g)) / T.",
        "log m = np.logaddexp(log(alpha) + logp, log(1 - alpha) + logq), p/m = exp(logp - logm). alpha = 0 is "
        "forward_kl.",
    ),
    "skew_reverse_kl": (
        "KL(q || m) with m = (1 - alpha) p + alpha q: here alpha is the student's share.",
        "The slope in q is g = log(q/m) - alpha q/m, but for a constant; through the softmax: q (g - sum(q g)) / T.",
        "log m = np.logaddexp(log(1 - alpha) + logp, log(alpha) + logq). Where q = 0 the gradient is 0. alpha = 0 is "
        "reverse_kl.",
    ),
    "alpha_divergence": (
        "With w = p^alpha q^(1 - alpha) it is (1 - sum(w)) / (alpha (1 - alpha)).",
        "w = exp(alpha log p + (1 - alpha) log q). T dz = (q sum(w) - w) / alpha.",
        "The ends are limits: alpha = 1 is forward_kl, alpha = 0 reverse_kl. Where p or q is 0, w is 0.",
    ),
    "taid": (
        "forward_kl to a target between the two: r = softmax(((1 - t) z + t u) / T). The target is a constant, though "
        "z is in it.",
        "T dz = q - r. In PyTorch: detach the student's logits in the target, and nowhere else.",
        "-inf on either side leaves r without that entry, for 0 < t < 1. At t = 1 the target is the teacher: do not "
        "compute 0 * -inf.",
    ),
    "mse_logits": (
        "The mean over the classes of (z - u)^2, then the mean over the tokens that count.",
        "dz = 2 (z - u) / V for a token, divided by the number of tokens that count.",
        "-inf - -inf is NaN: where both are -inf, difference and gradient are 0.",
    ),
    "cosine_logits": (
        "1 - z.u / (|z| |u|): lengths do not matter, so the gradient is at right angles to z.",
        "dz = -(u/|u| - cos z/|z|) / |z|.",
        "A row of zeros has no direction: loss 1, gradient 0. Squares of large logits are no trouble in float64, -inf "
        "is: where both are -inf leave the entry out.",
    ),
    "universal_logit_distance": (
        "Sort the probabilities of both from the largest down, fill up the shorter one with zeros, and add up the "
        "absolute differences.",
        "The slope sign(sorted q - sorted p) goes back to the place where each q came from; then through the softmax.",
        "order = np.argsort(-q); g[order] = np.sign(q[order] - sorted_p); dz = q * (g - sum(q * g)) / T.",
    ),
    "distillation_loss": (
        "alpha T^2 KL at temperature T, and (1 - alpha) cross-entropy at temperature 1; both over the same tokens.",
        "The KL's gradient has a 1/T, so T^2 leaves a T. The pullback is the sum of the two pullbacks, each with its "
        "factor.",
        "alpha may be an array, one number for each token: multiply the losses of the tokens (those of reduction "
        "'none') by it before the mean, and divide by the number of tokens that count, not by the sum of alpha.",
    ),
    "linear_distillation_loss": (
        "Two products, student_hidden student_weight^T and the teacher's, then distillation_loss.",
        "dstudent_hidden = dlogits weight, dstudent_weight = dlogits^T hidden. The teacher gets no gradient.",
        "In blocks of tokens: sums, added up, divided once at the end by the number of tokens that count.",
    ),
    "decoupled_kd": (
        "Two KLs: between (p_label, 1 - p_label) and (q_label, 1 - q_label), times alpha; and between p and q after "
        "the label was taken out and the rest renormalised, times beta. No T^2.",
        "Write o for the softmax over the other classes. The first has T dz = q_label - p_label at the label and "
        "-(q_label - p_label) o_student elsewhere; the second o_student - o_teacher elsewhere, 0 at the label.",
        "o is a softmax of logits whose label entry is -inf. log(1 - p_label) is the log-sum-exp of the others less "
        "that of all: 1 - p_label itself loses all digits where p_label is nearly 1.",
    ),
    "minillm_loss": (
        "The rewards r_t = log p(y_t) - log q(y_t) and the weights w_t are constants: in PyTorch, detach them. A "
        "token's long part is -[R_{t+1}] log q(y_t), R the sum of what follows.",
        "With single_step, add the exact reverse_kl of the position, and use R_{t+1}; without, use R_t - 1 and "
        "nothing else. The gradient of -log q(y) is q - onehot(y).",
        "Tokens that do not count bring no reward and are not counted in the number of rewards that length_normalize "
        "divides by (at least 1). w_t = q(y_t) / (alpha p(y_t) + (1 - alpha) q(y_t)).",
    ),
    "top_k_teacher": (
        "First the log_softmax over all classes, then the choice: nothing is renormalised.",
        "The largest first. np.take_along_axis picks the logarithms that belong to the ids.",
        "ids = np.argsort(-logits, axis=-1, kind='stable')[..., :k]. The temperature does not change the ids, but the "
        "logarithms.",
    ),
    "sparse_kl": (
        "Take log q over all classes, then pick those of the ids. `tail` says what becomes of the rest.",
        "bucket: one more class on both sides, with what is left of p and of q. renormalize: subtract from both their "
        "log-sum-exp over the ids. zero: the sum over the ids, and nothing else.",
        "T dz at the ids: q - p (bucket), qhat - phat (renormalize), sum(p) q - p (zero). Elsewhere: q - q "
        "rest_p/rest_q (bucket), 0 (renormalize), sum(p) q (zero).",
    ),
    "mse_hidden": (
        "s = student projection, then the mean over the channels of (s - teacher)^2 and the mean over the tokens.",
        "ds = 2 (s - teacher) / D over the number of tokens; from there as in `linear`, without a bias.",
        "What does not count may hold anything, NaN included: set it to 0 before the product with the projection. "
        "Without a projection the pullback returns one gradient.",
    ),
    "cosine_hidden": (
        "1 - the cosine between student and teacher, for each token.",
        "dstudent = -(t/|t| - cos s/|s|) / |s|.",
        "A vector of zeros: loss 1, gradient 0; divide only where the length is not 0.",
    ),
    "attention_transfer": (
        "Q is the sum of squares of a token's channels; a sequence's Q is normalised over its tokens, (..., T).",
        "Half the squared distance of two vectors of length 1 is 1 - their cosine: use cosine_hidden on the Qs, one "
        "loss for each sequence. dQ/dx = 2 x.",
        "Tokens that do not count have Q = 0, and a sequence without any that counts is no part of the mean.",
    ),
    "relation_kd": (
        "For each head X (T, size): scores X X^T / sqrt(size), a softmax, and the KL from the teacher's to the "
        "student's, row by row.",
        "X stands on both sides of the product: dX = (dscores + dscores^T) X / sqrt(size). The mean is over heads, "
        "then over the tokens that count.",
        "Tokens that do not count are no keys either: -inf in their columns on both sides, and no rows of theirs.",
    ),
    "cosine_schedule": (
        "Step 0 moves already: the warm-up gives peak (step + 1) / warmup_steps.",
        "After it progress = (step - warmup_steps) / (steps - warmup_steps), which begins at 0: the peak once more.",
        "final + (peak - final) * (1 + cos(pi * progress)) / 2; mind steps = warmup_steps, where there is nothing to "
        "divide by.",
    ),
    "clip_by_global_norm": (
        "One length for all arrays together, one factor for all of them.",
        "The factor is max_norm / length where that is below 1; what is short enough stays as it is.",
        "max_norm / max(length, max_norm) needs no case for a length of 0.",
    ),
    "adamw_step": (
        "Both moments move first; then both are corrected for having begun at 0, with the number of steps that "
        "includes this one.",
        "m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2; parameter -= learning_rate * m/(1 - b1^n) / (sqrt(v/(1 - "
        "b2^n)) + eps), n = updates + 1.",
        "The decay multiplies the old parameter by 1 - learning_rate * weight_decay, and only if it is a matrix; it "
        "is no part of g, m or v. Return new arrays.",
    ),
    "sample_token": (
        "Softmax at the temperature, running sum, and the first token at which the sum passes `uniform`.",
        "With top_k or top_p sort from the most to the least likely first; top_p keeps the tokens before which the "
        "sum is still below p, so that the one that reaches it stays.",
        "(cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1) renormalises on the way. top_p looks at the "
        "probabilities of the k tokens that top_k left, renormalised. Temperature 0 is the argmax.",
    ),
    "distill_step": (
        "Logits of both, distillation_loss, its pullback, one step down: w - learning_rate * dw.",
        "dw = dlogits^T hidden, and dlogits is that of the mean over the labelled tokens.",
        "Return the new weight and the loss at the old one. The teacher's weight does not move.",
    ),
    "codistill_step": (
        "Both look at the batch before either one moves: all logits come from the weights that were given.",
        "The teacher learns by cross_entropy (with mutual by distillation_loss, the student as its teacher), the "
        "student by distillation_loss; each is a constant in the other's loss.",
        "Compute both losses and both gradients, then both new weights; return student, teacher, the student's loss, "
        "the teacher's.",
    ),
}
"""By the name of the function."""
