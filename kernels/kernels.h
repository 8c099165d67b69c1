#pragma once
// Launchers of the CUDA primitives. This folder depends on nothing of the project, so that it can be lifted
// into another one as it is. What each primitive computes is stated here; the letters are
//   n steps of a block, w window, Hq query heads, Hkv KV heads, G = Hq/Hkv, d head dimension, p page size,
//   U selection units (Hkv or Hq), J pages of a row of scores, K pages that a list can hold.
// Parameters are plain structs passed by value; all pointers are device pointers, all arrays dense and
// row-major. A launcher only enqueues on `stream` and returns the launch's error; nothing allocates or waits.
// Scores, partial results and LSE (natural logarithm) are float; keys, values, queries and page summaries
// have the element type, and accumulation is in float.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace hindsight::kernels {

/// Limits of what the launchers take; anything else returns cudaErrorInvalidValue.
inline constexpr int kHeadDims[] = {64, 80, 96, 128, 256};
inline constexpr int kMaxGroup = 16;
inline constexpr int kMaxWindow = 16;
inline constexpr int kMinPageSize = 8;
inline constexpr int kMaxPageSize = 128;

enum class ElementType : int32_t { float16, bfloat16, float32 };

/// One row of a block: a decode step. Its past queries are at position-1 .. position-window_rows+1; `row`
/// numbers its query among all outputs, and the query at position-s is row-s.
struct Step {
  int32_t sequence, position, row, window_rows;
};

struct Heads {
  ElementType type;
  int32_t n_q_heads, n_kv_heads, head_dim;
};

/// Queries of several sequences, packed: [rows, Hq, d]. The query at a position of a sequence is row
/// first_row[sequence] + position (first_row is negative where a sequence's first queries are not held).
struct Queries {
  const void* data;
  const int64_t* first_row;
  bool rows_are_old;  ///< first_row had been written when the grid before began: see DecodeStepParams
};

/// Keys and values in pages of one pool: k and v [pool pages, Hkv, p, d]; summaries [pool pages, Hkv, 2, d]
/// hold the element-wise maximum of a page's keys, then the minimum. table [sequences, table_stride] maps a
/// sequence's page to a pool page.
struct PagedKv {
  void* k;
  void* v;
  void* summaries;
  const int32_t* table;
  int64_t table_stride;
  int32_t page_size;
};

/// Page lists: pages [n, U, capacity], ascending, of which count [n, U] are meant.
struct PageLists {
  int32_t* pages;
  int32_t* count;
  int32_t capacity;
};

/// Tokens [from, to) of a sequence.
struct TokenRange {
  int64_t sequence, from, to;
};

/// Copies tokens of packed keys and values ([tokens, Hkv, d]; token t of a sequence is row
/// first_row[sequence] + t) into the pages, and recomputes the summaries of the touched pages over all tokens
/// < to.
struct AppendParams {
  Heads heads;
  PagedKv kv;
  const void* k;
  const void* v;
  const int64_t* first_row;
  const TokenRange* ranges;
  int32_t n_ranges;
  int64_t longest;  ///< tokens of the longest range
};
cudaError_t append(const AppendParams& params, cudaStream_t stream);

/// Rows [first_row, first_row + n) of arrays that a model computed: positions [first_position, first_position
/// + n) of a sequence, which had `had` tokens before.
struct RowRange {
  int64_t sequence, first_position, n, first_row, had;
};

/// Rounds rows of k and v [rows, Hkv, d], float, into the pages, after the tokens that a sequence has or over
/// them, and brings the summaries of touched pages up to date over all tokens that they then hold: recomputed
/// from the keys; or with `widen`, pages that were there already only take in the written keys.
struct WriteRowsParams {
  Heads heads;
  PagedKv kv;
  const float* k;
  const float* v;
  const RowRange* ranges;  ///< no two of one sequence
  int32_t n_ranges;
  int64_t longest;  ///< rows of the longest range
  bool widen;
};
cudaError_t write_rows(const WriteRowsParams& params, cudaStream_t stream);

/// Rounds the ranges' rows of q [rows, Hq, d], float, to the element type, at the same rows of `queries`, and
/// sets first_row[sequence] to where position 0 would be.
struct SetQueriesParams {
  Heads heads;
  const float* q;
  const RowRange* ranges;
  int32_t n_ranges;
  int64_t longest;  ///< rows of the longest range
  void* queries;
  int64_t* first_row;
};
cudaError_t set_queries(const SetQueriesParams& params, cudaStream_t stream);

/// to[to_rows[i]] = from[from_rows[i]], i < n, of rows of `width` floats; no `rows`: row i. No row is both
/// read and written.
struct CopyRowsParams {
  const float* from;
  const int32_t* from_rows;
  float* to;
  const int32_t* to_rows;
  int64_t n, width;
};
cudaError_t copy_rows(const CopyRowsParams& params, cudaStream_t stream);

// --- what a transformer's layer does around attention and its products. Activations are float; what a
// product takes is an operand: rows in the type of its weights, and where rounding to that type loses too
// much, a second part that holds what the first lost.

struct Operand {
  ElementType type;
  int32_t parts;        ///< 1 or 2
  void* data;           ///< [parts][part_stride]; rows are dense within a part
  int64_t part_stride;  ///< elements
};

/// x[i] = embedding[tokens[i]], widened.
struct EmbedParams {
  ElementType type;
  const void* embedding;  ///< [vocabulary, width]
  const int32_t* tokens;  ///< [n]
  float* x;               ///< [n, width]
  int64_t n, width;
};
cudaError_t embed(const EmbedParams& params, cudaStream_t stream);

/// RMS norm of rows: x / sqrt(mean(x^2) + epsilon) * weight.
struct NormRowsParams {
  const float* x;       ///< [n, width]
  const float* weight;  ///< [width]
  float epsilon;
  Operand to;
  int64_t n, width;
};
cudaError_t norm_rows(const NormRowsParams& params, cudaStream_t stream);

/// Rows of x as an operand: row i is x[rows[i]], or x[i] where there are no `rows`.
struct RoundRowsParams {
  const float* x;
  const int32_t* rows;
  Operand to;
  int64_t n, width;
};
cudaError_t round_rows(const RoundRowsParams& params, cudaStream_t stream);

/// silu(gate) * up of rows [gate, up] of 2 * width.
struct GateRowsParams {
  const float* gate_up;
  Operand to;
  int64_t n, width;
};
cudaError_t gate_rows(const GateRowsParams& params, cudaStream_t stream);

/// x[i] += bias.
struct AddBiasParams {
  float* x;
  const float* bias;
  int64_t n, width;
};
cudaError_t add_bias(const AddBiasParams& params, cudaStream_t stream);

/// Rows [q, k, v] of a product become queries, keys and values: plus bias, RMS norm of every head's query and
/// key, rotation of their halves against each other by the angle position * frequency, rounded to float.
struct SplitHeadsParams {
  const float* rows;  ///< [n, (Hq + 2 Hkv) d]
  const float* bias;  ///< [(Hq + 2 Hkv) d]; null: none
  const float* q_norm;
  const float* k_norm;  ///< [d] both; null: none
  float epsilon;
  const float* frequencies;  ///< [d / 2]
  const int32_t* positions;  ///< [n]
  float* q;                  ///< [n, Hq, d]
  float* k;                  ///< [n, Hkv, d]
  float* v;
  int64_t n;
  int32_t n_q_heads, n_kv_heads, head_dim;
};
cudaError_t split_heads(const SplitHeadsParams& params, cudaStream_t stream);

/// How the G scores of a KV head become one.
enum class Combine : int32_t { max, mean, sum };

/// Quest's upper bound per page, scores [n, U, J]: sum_c max(q_c*kmin_c, q_c*kmax_c), combined over the group
/// if per_kv_head. The page of the row's position is summarised over tokens <= position from its keys; pages
/// that begin later get -inf.
struct ScorePagesParams {
  Heads heads;
  PagedKv kv;
  Queries q;
  const Step* steps;
  int32_t n_steps;
  int32_t longest_run;  ///< most steps in a row of one sequence, 1 at least: the time hangs on it, no result
  bool per_kv_head;
  Combine combine;
  bool round_to_storage;  ///< round each head's score to the element type first, to a finite value
  float* scores;
  int32_t n_pages;  ///< J
};
cudaError_t score_pages(const ScorePagesParams& params, cudaStream_t stream);
/// Of each row the page of its own position alone.
cudaError_t score_newest_pages(const ScorePagesParams& params, cudaStream_t stream);

/// True mass per page, mass [n, U, J]: sum of exp(scale*q.k - lse), 0 where that is no normal number, over
/// its tokens <= position and the unit's heads; lse [n, Hq] is that of dense attention. Pages that begin
/// after position get -inf.
struct PageMassParams {
  Heads heads;
  float scale;
  PagedKv kv;
  Queries q;
  const Step* steps;
  int32_t n_steps;
  int32_t longest_run;  ///< as above
  bool per_kv_head;
  const float* lse;
  float* mass;
  int32_t n_pages;  ///< J
};
cudaError_t page_mass(const PageMassParams& params, cudaStream_t stream);

/// Scores [n, U, J] uniform in [0, 1), a hash of (seed, layer, position, unit, page). Pages that begin after
/// position get -inf.
struct RandomScoresParams {
  const Step* steps;
  int32_t n_steps;
  int32_t n_units;
  int32_t page_size;
  uint64_t seed;
  int64_t layer;
  float* scores;
  int32_t n_pages;  ///< J
};
cudaError_t random_scores(const RandomScoresParams& params, cudaStream_t stream);

/// What becomes of the page of the row's own position: loaded and counted in k; an ordinary candidate; loaded
/// on top of k others.
enum class Newest : int32_t { forced, competes, extra };

/// The k[i] pages with the best scores among those that exist at the row's position, ascending. Exact; ties
/// to the lower page.
struct SelectTopKParams {
  const Step* steps;
  int32_t n_steps;
  int32_t n_units;
  int32_t page_size;
  const float* scores;  ///< [n, U, J]
  int32_t n_pages;      ///< J
  const int32_t* k;     ///< [n]
  Newest newest;
  PageLists lists;
};
cudaError_t select_top_k(const SelectTopKParams& params, cudaStream_t stream);

/// Walks the steps in order: previous[i,u,c] becomes last_loaded[sequence, u, pages[i,u,c]], which becomes
/// the step's position.
struct NoteLoadsParams {
  const Step* steps;
  int32_t n_steps;
  int32_t n_units;
  int32_t n_sequences;
  PageLists lists;
  int32_t* last_loaded;  ///< [sequences, U, J]
  int32_t n_pages;       ///< J
  int32_t* previous;     ///< [n, U, capacity]
};
cudaError_t note_loads(const NoteLoadsParams& params, cudaStream_t stream);

/// How attention over many tokens is cut, so that few rows fill the GPU too: each split writes a partial
/// result to the workspace, and they are merged in ascending order of tokens.
struct SplitPlan {
  int32_t splits;
  int64_t workspace_bytes;  ///< 0 for one split
};

/// A launch that is split counts in `arrived` who has written partial results: zeros before and after it,
/// that many. Its steps must have been written as early as those of DecodeStepParams.
inline constexpr int kStreamProblems = 4096;

/// Attention over page lists for a window of queries. Row i and slot s < min(w, window_rows) give attention
/// of the query at position-s over the tokens <= position-s of the listed pages, for s > 0 only of those
/// pages whose `previous` is < position-s; other slots give (0, -inf). A page is read once for up to 64 of
/// the w*G query rows; of streams for up to 16, if one of them may see it.
struct AttendParams {
  Heads heads;
  float scale;
  PagedKv kv;
  Queries q;
  const Step* steps;
  int32_t n_steps;
  bool per_kv_head;
  int32_t window;
  PageLists lists;
  const int32_t* previous;  ///< [n, U, capacity]; may be null where window = 1
  float* out;               ///< [n, w, Hq, d]
  float* lse;               ///< [n, w, Hq]
  bool is_stream;           ///< as planned
  int32_t splits;           ///< as planned
  void* workspace;          ///< as planned
  int32_t* arrived;         ///< [kStreamProblems]
};
/// Dynamic shared memory that a block of attend or dense may need.
int32_t attention_shared_bytes(int32_t head_dim);
struct AttendPlan {
  bool is_stream;  ///< blocks of warps that stream tokens; for 16 rows one for each multiprocessor at most
  SplitPlan split;
};
AttendPlan plan_attend(const AttendParams& params, int32_t multiprocessors);
cudaError_t attend(const AttendParams& params, cudaStream_t stream);

/// What launchers are planned for.
struct DeviceLimits {
  int32_t compute_capability;  ///< 90 for 9.0
  int32_t multiprocessors;
  int64_t shared_bytes_per_block, shared_bytes_per_multiprocessor;
};

/// How decode_step is launched.
struct StepPlan {
  int32_t cluster = 0;     ///< blocks that share a sequence and KV head
  int32_t past_warps = 0;  ///< of a block, that attend for past queries
};

/// A whole step of Quest for one step of each of n sequences, page sets per KV head, in one launch: appends
/// the token of the step's position as `append` does, scores pages as `score_pages`, selects as
/// `select_top_k`, notes loads, attends for the window as `attend`, and merges into out as `merge`. Scores
/// are rounded in another order than by score_pages: where they differ by rounding alone, page sets may
/// differ in those pages.
///
/// It begins before the grid before in the stream has ended, and waits for it; but steps, k, kv.table and
/// first_row must have been written earlier: by something that had ended when that grid began. So must
/// q.first_row where q.rows_are_old.
struct DecodeStepParams {
  Heads heads;
  float scale;
  PagedKv kv;
  Queries q;
  const void* appended_k;  ///< packed keys and values as in AppendParams; null: the token is in the pages
  const void* appended_v;
  const int64_t* first_row;  ///< of appended_k and appended_v; not read where there are none
  const Step* steps;         ///< no two of one sequence
  int32_t n_steps;
  Combine combine;
  bool round_to_storage;
  const int32_t* k;  ///< [n]
  Newest newest;
  PageLists lists;
  int32_t n_pages;  ///< J
  int32_t window;
  int32_t* last_loaded;  ///< [sequences, Hkv, J]; may be null where window = 1
  float* out;            ///< [rows, Hq, d]
  float* lse;            ///< [rows, Hq]
  StepPlan plan;         ///< as planned
};
/// Its `cluster` is 0 where one launch cannot do the step: below compute capability 9.0, other types than
/// 16-bit ones, head_dim 256, pages that are no multiple of 16 tokens, more than 64 rows (w*G), or more pages
/// than fit into shared memory (16384 at most).
StepPlan plan_decode_step(const DecodeStepParams& params, const DeviceLimits& device);
cudaError_t decode_step(const DecodeStepParams& params, cudaStream_t stream);

/// y [n, outputs] = x [n, inputs] W^T, or += it, of up to 16 rows: x and W have a 16-bit type, sums are
/// float.
struct FewRowsProductParams {
  ElementType type;
  const void* weights;  ///< [outputs, inputs]
  const void* x;
  float* y;
  int64_t n, outputs, inputs;
  bool add;
};
/// Whether the shape and the device are such that few_rows_product() can.
bool takes_few_rows_product(const FewRowsProductParams& params, const DeviceLimits& device);
cudaError_t few_rows_product(const FewRowsProductParams& params, cudaStream_t stream);

/// Dense attention of each row over tokens 0..position.
struct DenseParams {
  Heads heads;
  float scale;
  PagedKv kv;
  Queries q;
  const Step* steps;
  int32_t n_steps;
  int32_t steps_per_tile;  ///< as planned
  int32_t stream_blocks;   ///< as planned
  float* out;              ///< [n, Hq, d]
  float* lse;              ///< [n, Hq]
  int32_t splits;          ///< as planned
  void* workspace;         ///< as planned
  int32_t* arrived;        ///< [kStreamProblems]
};
struct DensePlan {
  int32_t steps_per_tile;
  int32_t stream_blocks;  ///< blocks that share out all tokens of single steps; 0: a block has tiles of steps
  SplitPlan split;
};
/// `longest` is the largest position + 1; `adjacent_share_sequence` says that most neighbours in the block
/// belong to one sequence, so that a tile of them shares what it reads.
DensePlan plan_dense(const DenseParams& params, int64_t longest, bool adjacent_share_sequence,
                     int32_t multiprocessors);
cudaError_t dense(const DenseParams& params, cudaStream_t stream);

/// The same for blocks of many steps of one sequence, positions ascending, by warpgroup products: some times
/// as fast. The plan has 0 splits where it cannot do it: elsewhere than on compute capability 9.0 in a build
/// for 9.0a (HINDSIGHT_KERNELS_90A), other types than 16-bit ones, head_dim other than 64 and 128, page sizes
/// other than 16, 32, 64 and 128, a scale that is not positive, less than 64 rows (n*G). `longest` as above.
SplitPlan plan_dense_block(const DenseParams& params, int64_t longest, const DeviceLimits& device);
cudaError_t dense_block(const DenseParams& params, cudaStream_t stream);
/// Page masses in the same way and under the same conditions, of units of 1, 2, 4 or 8 heads.
bool takes_mass_block(const PageMassParams& params, const DeviceLimits& device);
cudaError_t mass_block(const PageMassParams& params, cudaStream_t stream);
/// Page scores in the same way and of such units; pages and scale may be any.
bool takes_score_block(const ScorePagesParams& params, const DeviceLimits& device);
cudaError_t score_block(const ScorePagesParams& params, const DeviceLimits& device, cudaStream_t stream);

/// Slot 0 of row i becomes outputs[row]; slot s > 0 is merged into outputs[row - s], rows ascending. A slot
/// with lse = -inf changes no bit.
struct MergeParams {
  const Step* steps;
  int32_t n_steps;
  int32_t window;  ///< slots to merge, of the `slots` that the partial results have
  int32_t slots, n_q_heads, head_dim;
  const float* partial_out;  ///< [n, slots, Hq, d]
  const float* partial_lse;  ///< [n, slots, Hq]
  float* out;                ///< [rows, Hq, d]
  float* lse;                ///< [rows, Hq]
};
cudaError_t merge(const MergeParams& params, cudaStream_t stream);

/// Errors of `rows` outputs of `head_dim` elements against a reference. rel_l2 and cosine are NaN where the
/// reference is 0; the cosine of a zero output is 0. recall is exp(lse - reference lse), at most 1.
struct CompareParams {
  const float* out;            ///< [rows, d]
  const float* lse;            ///< [rows]
  const float* reference_out;  ///< [rows, d]
  const float* reference_lse;  ///< [rows]
  int64_t rows;
  int32_t head_dim;
  float* rel_l2;  ///< [rows], as the next two
  float* cosine;
  float* recall;
};
cudaError_t compare(const CompareParams& params, cudaStream_t stream);

/// errors[i] = ||x[i] - r|| / ||r||, r = references[i]; NaN where r is 0. Sums in double, in an order that
/// depends on the width alone.
struct CompareRowsParams {
  const float* x;                  ///< [n, width]
  const float* const* references;  ///< [n] rows of `width` elements
  int64_t n, width;
  double* errors;  ///< [n]
};
cudaError_t compare_rows(const CompareRowsParams& params, cudaStream_t stream);

/// Columns of what is counted of a page set: pages loaded, of these the ones that the step before loaded too,
/// pages of the best list, of these the ones loaded, tokens of pages that no lower unit of the KV head loads;
/// then pages that the step before did not load, by their rank under its scores in units of its number of
/// pages, the last bin without end; then the window's: tokens first shown to the query s steps before.
inline constexpr int kSelectionLoaded = 0, kSelectionKept = 1, kSelectionBest = 2, kSelectionBestLoaded = 3;
inline constexpr int kSelectionOwnTokens = 4, kSelectionLateRanks = 5, kLateRankBins = 9;
inline constexpr int kSelectionShown = kSelectionLateRanks + kLateRankBins;

/// Counts page sets of consecutive steps of one sequence: counts [n, U, kSelectionShown + w]. `previous` is
/// as note_loads gave it. Ranks break ties to the lower page; pages that scored -inf did not exist and are
/// left out.
struct CountSelectionParams {
  const Step* steps;
  int32_t n_steps;
  int32_t n_units;
  int32_t units_per_kv_head;
  int32_t page_size;
  int32_t n_pages;  ///< J
  int32_t window;   ///< at most kMaxWindow
  PageLists loaded;
  const int32_t* previous;      ///< [n, U, capacity of loaded]
  const int32_t* count_before;  ///< [n, U] pages that the step before loaded; 0 where there is none
  const float* scores_before;   ///< [n, U, J] scores of the step before each row; null: no ranks
  PageLists best;
  int32_t* counts;
};
cudaError_t count_selection(const CountSelectionParams& params, cudaStream_t stream);

}  // namespace hindsight::kernels
