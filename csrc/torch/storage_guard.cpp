#include "torch/storage_guard.h"

#include <c10/core/StorageImpl.h>
#include <c10/util/Exception.h>

#include <type_traits>
#include <utility>

namespace fastinit::ops {
namespace {

constexpr const char* kMessage =
    "fill pending: this memory was allocated inside fastinit.batch() and is filled when the batch "
    "ends. Read it after the batch, or by a torch function on the thread that runs the batch.";

// torch 2.11 can set the message but not clear it.
template <class T, class = void>
struct Clears : std::false_type {};
template <class T>
struct Clears<T, std::void_t<decltype(std::declval<T&>().clear_data_ptr_access_error_msg_())>>
    : std::true_type {};

// A template, so that the call is not looked at where it does not exist.
template <class T>
void guard(T& storage, bool closed) {
  if constexpr (Clears<T>::value) {
    if (closed)
      storage.release_data_and_set_meta_custom_data_ptr_error_msg_(kMessage);
    else
      storage.clear_data_ptr_access_error_msg_();
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "this torch cannot take the guard off a storage");
  }
}

}  // namespace

bool can_guard_storage() { return Clears<c10::StorageImpl>::value; }

void guard_storage(uintptr_t storage, bool closed) {
  guard(*reinterpret_cast<c10::StorageImpl*>(storage), closed);
}

}  // namespace fastinit::ops
