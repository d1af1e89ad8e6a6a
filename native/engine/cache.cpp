#include "engine/cache.hpp"

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace outpace {

Cache::Cache(const Kernels& kernels, int layers, int kv_heads, int head_dim, bool half, int64_t capacity)
    : kernels_(kernels), layers_(layers), kv_heads_(kv_heads), head_dim_(head_dim), half_(half) {
  const size_t num_pages = (size_t)((capacity + 15) / 16);
  head_bytes_ = (size_t)32 * head_dim * (half ? 2 : 4);
  page_bytes_ = head_bytes_ * kv_heads;
  void* p = MAP_FAILED;
  // As a floating-point number first: the product of all sizes may not fit into any other.
  if ((double)page_bytes_ * (double)num_pages * layers < 0x1p60) {
    layer_bytes_ = (page_bytes_ * num_pages + 4095) / 4096 * 4096;
    mapped_ = layer_bytes_ * layers;
    p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (p == MAP_FAILED)
    throw std::runtime_error("no address space for a cache of " + std::to_string(capacity) + " positions");
  base_ = static_cast<uint8_t*>(p);
  for (size_t i = num_pages; i-- > 0;) free_.push_back((int32_t)i);
  users_.assign(num_pages, 0);
}

Cache::~Cache() { munmap(base_, mapped_); }

const Cache::Row& Cache::at(int row) const {
  if (row < 0 || row >= (int)rows_.size() || !rows_[row].used)
    throw std::invalid_argument("no row " + std::to_string(row));
  return rows_[row];
}
Cache::Row& Cache::at(int row) { return const_cast<Row&>(static_cast<const Cache*>(this)->at(row)); }

int32_t Cache::take_page() {
  if (free_.empty())
    throw std::runtime_error("the cache of keys and values is full: free rows or load with a larger cache");
  const int32_t page = free_.back();
  free_.pop_back();
  users_[page] = 1;
  return page;
}

void Cache::drop_page(int32_t page) {
  if (--users_[page] == 0) free_.push_back(page);
}

int Cache::open() {
  size_t row = 0;
  while (row < rows_.size() && rows_[row].used) row++;
  if (row == rows_.size()) rows_.emplace_back();
  rows_[row].used = true;
  return (int)row;
}

int Cache::fork(int row, int length) {
  if (length < 0 || length > at(row).length)
    throw std::invalid_argument("row " + std::to_string(row) + " does not hold " + std::to_string(length) +
                                " positions");
  const int twin = open();
  const Row& from = at(row);
  Row& to = rows_[twin];
  to.length = length;
  const int full = length / 16;
  try {
    for (int i = 0; i < full; i++) {
      to.pages.push_back(from.pages[i]);
      users_[from.pages[i]]++;
    }
    if (length % 16) {
      to.pages.push_back(take_page());
      for (int l = 0; l < layers_; l++)
        std::memcpy(layer(l) + to.pages.back() * page_bytes_, layer(l) + from.pages[full] * page_bytes_, page_bytes_);
    }
  } catch (...) {
    close(twin);
    throw;
  }
  return twin;
}

void Cache::close(int row) {
  Row& r = at(row);
  for (int32_t page : r.pages) drop_page(page);
  r = Row{};
}

void Cache::reserve(int row, int nodes) {
  Row& r = at(row);
  const size_t need = (size_t)(r.length + nodes + 15) / 16;
  while (r.pages.size() < need) r.pages.push_back(take_page());
}

void Cache::move(int row, int from, int to, int layers) {
  const Row& r = at(row);
  if (from == to) return;
  from += r.length;
  to += r.length;
  for (int l = 0; l < layers; l++)
    for (int h = 0; h < kv_heads_; h++)
      kernels_.move_key_value(layer(l) + r.pages[from / 16] * page_bytes_, from % 16,
                              layer(l) + r.pages[to / 16] * page_bytes_, to % 16, (size_t)h * head_bytes_, head_dim_,
                              half_);
}

void Cache::keep(int row, const std::vector<int>& path) {
  for (size_t i = 0; i < path.size(); i++) move(row, path[i], (int)i, layers_);
  at(row).length += (int)path.size();
}

int64_t Cache::used_bytes() const { return (int64_t)(users_.size() - free_.size()) * (int64_t)page_bytes_ * layers_; }

}  // namespace outpace
