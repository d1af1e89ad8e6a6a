// Calls that run a part of the model, and calls that go on from them: the same tokens on the same parents are not run
// again through the layers that they have behind them.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "decoder.hpp"

namespace outpace {

Part Decoder::part_of(int layers, const std::vector<int>& skip) const {
  const int most = (int)weights_.layers.size();
  Part part{layers < 0 ? most : layers, std::vector<uint8_t>(2 * (size_t)most, 0)};
  if (part.layers < 1 || part.layers > most)
    throw std::invalid_argument("a call runs 1 to " + std::to_string(most) + " layers, not " + std::to_string(layers));
  for (int s : skip) {
    if (s < 0 || s >= 2 * most)
      throw std::invalid_argument("no sublayer " + std::to_string(s) + " to skip, accepted are 0 to " +
                                  std::to_string(2 * most - 1));
    part.skipped[s] = 1;
  }
  return part;
}

// Puts what the rows of this call have behind them into place. Returns through how many layers; the nodes that still
// have to go there are pending_. All rows are forgotten: their slots are about to be used.
int Decoder::resume(const Part& part, const std::vector<int>& taps) {
  int from = 0;
  pending_.clear();
  for (const RowPlan& row : rows_) {
    if (row.row >= (int)progress_.size()) progress_.resize(row.row + 1);
    Progress& known = progress_[row.row];
    const int layers = std::exchange(known.part.layers, 0);
    const bool usable =
        layers > 0 && layers <= part.layers && (from == 0 || from == layers) &&  // one number for the whole call
        std::equal(part.skipped.begin(), part.skipped.begin() + 2 * layers, known.part.skipped.begin()) &&
        std::all_of(taps.begin(), taps.end(), [&](int tap) { return tap >= layers; });
    if (usable) {
      from = layers;
      take_over(row, known, layers);
    } else {
      for (int i = 0; i < row.nodes; i++) pending_.push_back(row.start + i);
    }
  }
  return from;
}

// Finds the nodes of a row's tree among the known ones, in ascending order on both sides, so that they can change
// places without a second copy.
void Decoder::take_over(const RowPlan& row, const Progress& known, int layers) {
  const int count = (int)known.tokens.size();
  std::vector<int> place(row.nodes, -1);
  for (int i = 0, last = -1; i < row.nodes; i++) {
    const int parent = i ? place[parents_[row.start + i]] : -1;
    int j = i && parent < 0 ? count : last + 1;
    while (j < count && !(known.tokens[j] == tokens_[row.start + i] && known.parents[j] == parent)) j++;
    if (j == count) {
      pending_.push_back(row.start + i);
      continue;
    }
    place[i] = last = j;
    std::memcpy(states_.floats(0) + (size_t)(row.start + i) * width_, known.states.data() + (size_t)j * width_,
                sizeof(float) * width_);
  }
  for (int i = 0; i < row.nodes; i++)
    if (place[i] > i) cache_.move(kernels_, row.row, place[i], i, layers);
  for (int i = row.nodes; i-- > 0;)
    if (place[i] >= 0 && place[i] < i) cache_.move(kernels_, row.row, place[i], i, layers);
}

void Decoder::remember(const Part& part) {
  for (const RowPlan& row : rows_) {
    Progress& known = progress_[row.row];
    const auto of = [&](const std::vector<int32_t>& v) { return v.begin() + row.start; };
    known.tokens.assign(of(tokens_), of(tokens_) + row.nodes);
    known.parents.assign(of(parents_), of(parents_) + row.nodes);
    const float* states = states_.floats(0) + (size_t)row.start * width_;
    known.states.assign(states, states + (size_t)row.nodes * width_);
    known.part = part;
  }
}

}  // namespace outpace
