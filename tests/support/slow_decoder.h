#pragma once
// A model that decodes one sequence, in double, straight from the definitions: explicit sets of pages, no
// caches but lists of keys and values, no blocks, no code of the library. The truth of the closed loop.

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numbers>
#include <set>
#include <utility>
#include <vector>

#include "support/random_model.h"

namespace hindsight::test {

struct SlowMethod {
  bool dense = false;
  double ratio = 1;
  int64_t page_size = 4, k_min = 1, dense_layers = 1, window = 1;
  bool per_query_head = false;
  bool by_mass = false;  ///< pages by the true mass of the query, the newest among the others
  bool original_query = false, attend_again = false, widen = false;
  bool overwrite = true;  ///< false is a mistake, planted to see that tests would find it
};

class SlowDecoder {
 public:
  using Vector = std::vector<double>;

  SlowDecoder(const RandomModel& model, const SlowMethod& method) : model_(model), method_(method) {
    const auto integer = [&](const char* key) { return model.config.at(key).get<int64_t>(); };
    n_layers_ = integer("num_hidden_layers");
    hidden_ = integer("hidden_size");
    heads_ = integer("num_attention_heads");
    kv_heads_ = integer("num_key_value_heads");
    d_ = integer("head_dim");
    layers_.resize(static_cast<size_t>(n_layers_));
  }

  /// Logits of the token after the prompt.
  Vector prompt(const std::vector<int32_t>& tokens) {
    Vector x;
    for (const int32_t token : tokens) {
      const int64_t u = n_tokens_++;
      x = embedding(token);
      for (int64_t l = 0; l < n_layers_; ++l) dense_layer(l, u, x);
    }
    prompt_tokens_ = n_tokens_;
    return logits(x);
  }

  /// Takes a token; logits of the one after it.
  Vector step(int32_t token) {
    const int64_t u = n_tokens_++;
    Vector x = embedding(token);
    const int64_t sparse = method_.dense ? n_layers_ : std::min(n_layers_, method_.dense_layers);
    for (int64_t l = 0; l < sparse; ++l) dense_layer(l, u, x);
    if (sparse == n_layers_) return logits(x);
    entry_[u] = x;
    std::map<int64_t, Vector> rows;  // by position
    for (int64_t t = std::max(prompt_tokens_, u - method_.window + 1); t <= u; ++t) rows[t] = entry_[t];
    for (int64_t l = sparse; l < n_layers_; ++l) sparse_layer(l, u, rows);
    return logits(rows.at(u));
  }

  /// Of the query at a position: means over the units.
  double exposure(int64_t l, int64_t position) const {
    double sum = 0;
    for (int64_t unit = 0; unit < units(); ++unit)
      sum += static_cast<double>(tokens_of(layers_[l].shown.at(position)[unit], position).size()) /
             static_cast<double>(tokens_of(layers_[l].chosen.at(position)[unit], position).size());
    return sum / static_cast<double>(units());
  }
  double page_recall(int64_t l, int64_t position) const { return layers_[l].page_recall.at(position); }
  double mass_recall(int64_t l, int64_t position) const { return layers_[l].mass_recall.at(position); }

 private:
  struct Part {
    Vector out;
    double lse = -std::numeric_limits<double>::infinity();
  };
  struct LayerState {
    std::map<int64_t, Vector> k, v;               // by position: [Hkv * d]
    std::map<int64_t, std::vector<Vector>> ever;  // by page: every key that was ever written there
    std::map<int64_t, Vector> first_query;        // by position
    std::map<int64_t, std::vector<std::set<int64_t>>> shown;   // by position, by unit: pages
    std::map<int64_t, std::vector<Part>> parts;                // by position, by query head
    std::map<int64_t, std::vector<std::set<int64_t>>> chosen;  // by position, by unit: pages
    std::map<int64_t, double> page_recall, mass_recall;        // by position
  };

  const std::vector<float>& weight(const std::string& name) const { return model_.tensors.at(name).values; }
  bool has(const std::string& name) const { return model_.tensors.contains(name); }
  static std::string name(int64_t layer, const char* tensor) {
    return "model.layers." + std::to_string(layer) + "." + tensor;
  }

  Vector embedding(int32_t token) const {
    const auto& table = weight("model.embed_tokens.weight");
    return {table.begin() + token * hidden_, table.begin() + (token + 1) * hidden_};
  }
  Vector product(const std::string& matrix, const Vector& x) const {
    const auto& w = weight(matrix);
    const size_t rows = w.size() / x.size();
    Vector y(rows, 0.0);
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < x.size(); ++c) y[r] += static_cast<double>(w[r * x.size() + c]) * x[c];
    const std::string bias = matrix.substr(0, matrix.size() - 6) + "bias";
    if (has(bias))
      for (size_t r = 0; r < rows; ++r) y[r] += weight(bias)[r];
    return y;
  }
  Vector norm(const Vector& x, const std::vector<float>& w) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double eps = model_.config.at("rms_norm_eps").get<double>();
    const double root = std::sqrt(squares / static_cast<double>(x.size()) + eps);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / root * w[i];
    return y;
  }
  /// Per head: norm where the family has one, then rotation. Angles are float32 by definition.
  void norm_and_rotate(Vector& x, int64_t layer, const char* norm_name, int64_t position) const {
    const double theta = model_.config.at("rope_theta").get<double>();
    for (size_t head = 0; head * d_ < x.size(); ++head) {
      Vector h(x.begin() + static_cast<int64_t>(head) * d_, x.begin() + static_cast<int64_t>(head + 1) * d_);
      if (has(name(layer, norm_name))) h = norm(h, weight(name(layer, norm_name)));
      for (int64_t i = 0; i < d_ / 2; ++i) {
        double frequency = 1 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(d_));
        if (model_.config.contains("rope_scaling")) {  // llama3 by its formula in wavelengths
          const auto& scaling = model_.config.at("rope_scaling");
          const double wavelength = 2 * std::numbers::pi / frequency;
          const double original = scaling.at("original_max_position_embeddings").get<double>();
          const double low = scaling.at("low_freq_factor").get<double>();
          const double high = scaling.at("high_freq_factor").get<double>();
          const double factor = scaling.at("factor").get<double>();
          if (wavelength > original / low) {
            frequency /= factor;
          } else if (wavelength >= original / high) {
            const double smooth = (original / wavelength - low) / (high - low);
            frequency = (1 - smooth) * frequency / factor + smooth * frequency;
          }
        }
        const float angle = static_cast<float>(position) * static_cast<float>(frequency);
        const double c = std::cos(static_cast<double>(angle)), s = std::sin(static_cast<double>(angle));
        x[head * d_ + i] = h[i] * c - h[i + d_ / 2] * s;
        x[head * d_ + i + d_ / 2] = h[i + d_ / 2] * c + h[i] * s;
      }
    }
  }

  struct Qkv {
    Vector q, k, v;
  };
  Qkv project(int64_t l, int64_t position, const Vector& x) const {
    const Vector input = norm(x, weight(name(l, "input_layernorm.weight")));
    Qkv rows{product(name(l, "self_attn.q_proj.weight"), input),
             product(name(l, "self_attn.k_proj.weight"), input),
             product(name(l, "self_attn.v_proj.weight"), input)};
    norm_and_rotate(rows.q, l, "self_attn.q_norm.weight", position);
    norm_and_rotate(rows.k, l, "self_attn.k_norm.weight", position);
    return rows;
  }
  void write(int64_t l, int64_t position, const Qkv& rows) {
    LayerState& state = layers_[l];
    if (state.k.contains(position) && !method_.overwrite) return;
    state.k[position] = rows.k;
    state.v[position] = rows.v;
    state.ever[position / method_.page_size].push_back(rows.k);
  }
  void finish(int64_t l, const Vector& attended, Vector& x) const {
    const Vector o = product(name(l, "self_attn.o_proj.weight"), attended);
    for (int64_t i = 0; i < hidden_; ++i) x[i] += o[i];
    const Vector input = norm(x, weight(name(l, "post_attention_layernorm.weight")));
    Vector gate = product(name(l, "mlp.gate_proj.weight"), input);
    const Vector up = product(name(l, "mlp.up_proj.weight"), input);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    const Vector down = product(name(l, "mlp.down_proj.weight"), gate);
    for (int64_t i = 0; i < hidden_; ++i) x[i] += down[i];
  }
  Vector logits(const Vector& x) const {
    return product(has("lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight",
                   norm(x, weight("model.norm.weight")));
  }

  Part attend(int64_t l, const Vector& q, int64_t head, const std::set<int64_t>& tokens) const {
    const int64_t kv = head / (heads_ / kv_heads_);
    Part part;
    part.out.assign(static_cast<size_t>(d_), 0.0);
    if (tokens.empty()) return part;
    std::map<int64_t, double> dots;
    double largest = -std::numeric_limits<double>::infinity();
    for (const int64_t token : tokens) {
      double dot = 0;
      for (int64_t i = 0; i < d_; ++i) dot += q[head * d_ + i] * layers_[l].k.at(token)[kv * d_ + i];
      dots[token] = dot / std::sqrt(static_cast<double>(d_));
      largest = std::max(largest, dots[token]);
    }
    double sum = 0;
    for (const auto& [token, dot] : dots) {
      const double w = std::exp(dot - largest);
      sum += w;
      for (int64_t i = 0; i < d_; ++i) part.out[i] += w * layers_[l].v.at(token)[kv * d_ + i];
    }
    for (double& value : part.out) value /= sum;
    part.lse = largest + std::log(sum);
    return part;
  }
  std::set<int64_t> tokens_until(int64_t position) const {
    std::set<int64_t> all;
    for (int64_t token = 0; token <= position; ++token) all.insert(token);
    return all;
  }
  std::set<int64_t> tokens_of(const std::set<int64_t>& pages, int64_t position) const {
    std::set<int64_t> tokens;
    for (const int64_t page : pages)
      for (int64_t i = 0; i < method_.page_size; ++i)
        if (page * method_.page_size + i <= position) tokens.insert(page * method_.page_size + i);
    return tokens;
  }

  void dense_layer(int64_t l, int64_t u, Vector& x) {
    const Qkv rows = project(l, u, x);
    write(l, u, rows);
    Vector attended;
    for (int64_t head = 0; head < heads_; ++head) {
      const Part part = attend(l, rows.q, head, tokens_until(u));
      attended.insert(attended.end(), part.out.begin(), part.out.end());
    }
    finish(l, attended, x);
  }

  double page_score(int64_t l, const Vector& q, int64_t head, int64_t page, int64_t u) const {
    const int64_t kv = head / (heads_ / kv_heads_);
    std::vector<Vector> keys;
    if (method_.widen && page != u / method_.page_size)
      keys = layers_[l].ever.at(page);
    else
      for (const int64_t token : tokens_of({page}, u)) keys.push_back(layers_[l].k.at(token));
    double score = 0;
    for (int64_t i = 0; i < d_; ++i) {
      double most = -std::numeric_limits<double>::infinity();
      double low = std::numeric_limits<double>::infinity(), high = -low;
      for (const Vector& key : keys) {
        low = std::min(low, key[kv * d_ + i]);
        high = std::max(high, key[kv * d_ + i]);
      }
      most = std::max(q[head * d_ + i] * low, q[head * d_ + i] * high);
      score += most;
    }
    return score;
  }

  int64_t units() const { return method_.per_query_head ? heads_ : kv_heads_; }

  int64_t budget_pages(int64_t u) const {
    const int64_t pages = u / method_.page_size + 1;
    const double budget = method_.ratio * static_cast<double>(u + 1);
    if (budget >= static_cast<double>(u + 1)) return pages;
    return std::min(
        pages,
        std::max(method_.k_min,
                 static_cast<int64_t>(std::floor(budget / static_cast<double>(method_.page_size) + 1e-9))));
  }

  std::set<int64_t> select(int64_t l, const Vector& q, int64_t unit, int64_t u) const {
    const int64_t newest = u / method_.page_size, k = budget_pages(u);
    if (method_.by_mass) {
      const std::vector<std::pair<double, int64_t>> masses = page_masses(l, q, unit, u);
      std::set<int64_t> best;
      for (int64_t i = 0; i < k; ++i) best.insert(masses[i].second);
      return best;
    }
    std::vector<std::pair<double, int64_t>> ranked;  // smallest first: minus the score, then the page
    for (int64_t page = 0; page < newest; ++page) {
      const int64_t per_unit = heads_ / units();
      double score = 0;
      for (int64_t g = 0; g < per_unit; ++g)
        score += page_score(l, q, unit * per_unit + g, page, u) / static_cast<double>(per_unit);
      ranked.emplace_back(-score, page);
    }
    std::sort(ranked.begin(), ranked.end());
    std::set<int64_t> chosen{newest};
    for (int64_t i = 0; i < k - 1; ++i) chosen.insert(ranked[i].second);
    return chosen;
  }

  /// Of dense attention of the query over the keys as they are, summed over the heads of the unit; largest
  /// first: minus the mass, then the page.
  std::vector<std::pair<double, int64_t>> page_masses(int64_t l, const Vector& q, int64_t unit,
                                                      int64_t u) const {
    const int64_t pages = u / method_.page_size + 1, per_unit = heads_ / units();
    std::vector<std::pair<double, int64_t>> masses;
    for (int64_t page = 0; page < pages; ++page) {
      double mass = 0;
      for (int64_t head = unit * per_unit; head < (unit + 1) * per_unit; ++head)
        mass +=
            std::exp(attend(l, q, head, tokens_of({page}, u)).lse - attend(l, q, head, tokens_until(u)).lse);
      masses.emplace_back(-mass, page);
    }
    std::sort(masses.begin(), masses.end());
    return masses;
  }

  /// How much of it was chosen.
  void note_recall(int64_t l, const Vector& q, int64_t u) {
    LayerState& state = layers_[l];
    const int64_t per_unit = heads_ / units(), k = budget_pages(u);
    for (int64_t unit = 0; unit < units(); ++unit) {
      const std::vector<std::pair<double, int64_t>> masses = page_masses(l, q, unit, u);
      double chosen_mass = 0;
      for (const auto& [mass, page] : masses)
        if (state.chosen.at(u)[unit].contains(page)) chosen_mass -= mass;
      int64_t found = 0;
      for (int64_t i = 0; i < k; ++i) found += state.chosen.at(u)[unit].contains(masses[i].second) ? 1 : 0;
      state.page_recall[u] += static_cast<double>(found) / static_cast<double>(k * units());
      state.mass_recall[u] += chosen_mass / static_cast<double>(per_unit * units());
    }
  }

  static void merge(Part& into, const Part& from) {
    if (std::isinf(from.lse)) return;
    const double m = std::max(into.lse, from.lse);
    const double a = std::exp(into.lse - m), b = std::exp(from.lse - m);
    for (size_t i = 0; i < into.out.size(); ++i) into.out[i] = (a * into.out[i] + b * from.out[i]) / (a + b);
    into.lse = m + std::log(a + b);
  }

  void sparse_layer(int64_t l, int64_t u, std::map<int64_t, Vector>& rows) {
    LayerState& state = layers_[l];
    std::map<int64_t, Vector> queries;
    for (const auto& [t, x] : rows) {
      const Qkv qkv = project(l, t, x);
      write(l, t, qkv);
      state.first_query.try_emplace(t, qkv.q);
      queries[t] = method_.original_query ? state.first_query.at(t) : qkv.q;
    }
    std::vector<std::set<int64_t>> chosen;
    for (int64_t unit = 0; unit < units(); ++unit) chosen.push_back(select(l, queries.at(u), unit, u));
    state.chosen[u] = chosen;
    note_recall(l, queries.at(u), u);
    const bool is_last = l + 1 == n_layers_;
    for (auto& [t, x] : rows) {
      if (is_last && t < u) continue;
      state.shown[t].resize(static_cast<size_t>(units()));
      state.parts[t].resize(static_cast<size_t>(heads_));
      Vector attended;
      for (int64_t head = 0; head < heads_; ++head) {
        const int64_t unit = head / (heads_ / units());
        std::set<int64_t>& shown = state.shown[t][unit];
        std::set<int64_t> unseen;
        for (const int64_t page : chosen[unit])
          if (!shown.contains(page)) unseen.insert(page);
        Part& part = state.parts[t][head];
        if (t == u)
          part = attend(l, queries.at(t), head, tokens_of(chosen[unit], t));
        else if (method_.attend_again) {
          std::set<int64_t> all = shown;
          all.insert(unseen.begin(), unseen.end());
          part = attend(l, queries.at(t), head, tokens_of(all, t));
        } else {
          merge(part, attend(l, queries.at(t), head, tokens_of(unseen, t)));
        }
        attended.insert(attended.end(), part.out.begin(), part.out.end());
      }
      for (int64_t unit = 0; unit < units(); ++unit)
        state.shown[t][unit].insert(chosen[unit].begin(), chosen[unit].end());
      finish(l, attended, x);
    }
  }

  const RandomModel& model_;
  SlowMethod method_;
  int64_t n_layers_ = 0, hidden_ = 0, heads_ = 0, kv_heads_ = 0, d_ = 0;
  int64_t n_tokens_ = 0, prompt_tokens_ = 0;
  std::map<int64_t, Vector> entry_;  // by position
  std::vector<LayerState> layers_;
};

}  // namespace hindsight::test
